package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// TestAReceiverTellsHowItFares runs archive-receive as a service does, before its server
// is there, while it receives, and to its end.
func TestAReceiverTellsHowItFares(t *testing.T) {
	t.Parallel()
	dir, program := pgtest.TempDir(t), pgtest.BuildPgbak(t)
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Dir: filepath.Join(dir, "data"), Config: map[string]string{"wal_keep_size": "1GB"}})
	config := filepath.Join(dir, "pgbak.yaml")
	text := strings.Replace(plainConfig, "host=DIR/nowhere user=postgres dbname=postgres", c.DSN()+" password=hunter2", 1)
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	asServer(t, program, "--config", config, "init")
	asServer(t, "/bin/mkdir", "-m", "700", filepath.Join(dir, "received"))
	c.Stop(t, "fast")

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	supervisor, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer supervisor.Close()
	pgtest.GiveToServer(t, filepath.Join(dir, "notify"))
	told := func(want string) {
		t.Helper()
		word := make([]byte, 100)
		if err := supervisor.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := supervisor.Read(word); err != nil || string(word[:n]) != want {
			t.Fatalf("the supervisor was told %q, %v; want %q", word[:n], err, want)
		}
	}
	args := []string{"--config", config, "archive-receive", "--directory", filepath.Join(dir, "received"), "--slot", "receiver", "--create-slot", "--listen", address}
	if out, err := pgtest.Command(t, program, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "--listen: listen tcp") {
		t.Errorf("an address in use: %v\n%s", err, out)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := pgtest.Command(t, program, args...)
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	told("READY=1")

	everything := ""
	until := func(path string, words ...string) {
		t.Helper()
		for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			body := getPage("http://" + address + path)
			everything += body
			missing := ""
			for _, w := range words {
				if !strings.Contains(body, w) {
					missing += "\n" + w
				}
			}
			if missing == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s lacks%s\nand says\n%s", path, missing, body)
			}
		}
	}
	of := `{stanza="main",slot="receiver"`
	until("/healthz", "200 alive")
	until("/readyz", "503 no WAL is received; the last error was of kind connection")
	until("/metrics", "pgbak_receive_streaming"+of+"} 0", "pgbak_receive_errors_total"+of+`,kind="connection"} `)
	c.Start(t)
	until("/readyz", "200 ready")
	c.Exec(t, "CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)")
	c.Exec(t, "SELECT pg_switch_wal()")
	c.WaitFor(t, "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'receiver' AND flush_lsn = pg_current_wal_flush_lsn()", "1", 2*time.Minute)
	until("/metrics", "pgbak_receive_streaming"+of+"} 1", "pgbak_receive_timeline"+of+"} 1", "pgbak_receive_lag_bytes"+of+"} 0", "pgbak_receive_waiting_files"+of+"} 0",
		"pgbak_receive_stored_files_total"+of+`,repository="local"} `, "pgbak_receive_remote_apply"+of+"} 0", "# TYPE pgbak_receive_errors_total counter",
		`pgbak_storage_operations_total{repository="local",for="archive-receive",operation="put"} `, "pgbak_receive_flushed_lsn"+of, "pgbak_receive_stored_lsn"+of)
	if strings.Contains(everything, "hunter2") {
		t.Error("the password is told to everybody")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	told("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, log.String())
	}
}

// getPage gives status and body, or why there is none.
func getPage(url string) string {
	answer, err := http.Get(url)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return fmt.Sprint(answer.StatusCode, " ", string(body), err)
}
