package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/pgtest"
)

// TestAnAgentThatIsKilledLosesNothing kills the agent at random moments while a
// server archives by it, and then lets recovery fetch by it. What the server was told to be archived
// is compared, file by file, with what is in the repository.
func TestAnAgentThatIsKilledLosesNothing(t *testing.T) {
	const rounds = 6
	dir, program := pgtest.TempDir(t), pgtest.BuildPgbak(t)
	config, plain, socket := filepath.Join(dir, "pgbak.yaml"), filepath.Join(dir, "plain.yaml"), filepath.Join(dir, "a.sock")
	command := fmt.Sprintf("%s --config %s --log-level debug archive-", program, config)
	c := pgtest.Start(t, pgtest.Options{Major: 17, SegmentSizeMB: 1, Dir: filepath.Join(dir, "data"),
		Config: map[string]string{"archive_mode": "on", "archive_command": command + "push %p", "wal_keep_size": "2GB"}})
	text := strings.ReplaceAll(strings.Replace(plainConfig, "host=DIR/nowhere user=postgres dbname=postgres", c.DSN(), 1), "DIR", dir)
	for path, text := range map[string]string{config: text + "agent: {socket: " + socket + "}\narchive: {spool: " + dir + "/spool, prefetch: 8MiB}\n", plain: text} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	asServer(t, "/bin/mkdir", "-m", "700", filepath.Join(dir, "spool"))
	asServer(t, program, "--config", config, "init")
	c.Stop(t, "fast")
	if out, err := exec.Command("cp", "-a", c.DataDir, filepath.Join(dir, "copy")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	c.Start(t)
	c.Exec(t, "CREATE TABLE t (n int, filler text)")
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, seed))
	t.Logf("seed %d", seed)
	for range rounds {
		p := startAgent(t, program, config, socket)
		killed := make(chan struct{})
		files, fraction := 1+random.IntN(3), random.Float64()
		go func() {
			defer close(killed)
			took := awaitArchived(c.DataDir, files)
			time.Sleep(time.Duration(fraction * float64(took))) // the moment, while the next file is on its way, is what is tried out
			_ = p.cmd.Process.Kill()
		}()
		c.Exec(t, "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(1, 30000) n")
		<-killed
		_ = p.cmd.Wait()
	}
	contains(t, c.Log(), "pgbak: the agent does not answer", "hint: start it")
	last := startAgent(t, program, config, socket)
	want := c.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
	c.WaitFor(t, "SELECT last_archived_wal >= '"+want+"' FROM pg_stat_archiver", "t", 2*time.Minute)
	rows := c.Query(t, "SELECT count(*) FROM t")
	c.Stop(t, "immediate")
	if n := compareAcknowledged(t, c.DataDir, plain); n < rounds*3 {
		t.Errorf("only %d files were archived", n)
	}

	restored := filepath.Join(dir, "copy")
	if err := os.WriteFile(filepath.Join(restored, "recovery.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.GiveToServer(t, filepath.Join(restored, "recovery.signal"))
	again := pgtest.Open(t, restored, 17, map[string]string{"restore_command": command + `get %f "%p"`, "archive_mode": "off"})
	again.WaitFor(t, "SELECT pg_is_in_recovery()", "f", 2*time.Minute)
	if got := again.Query(t, "SELECT count(*) FROM t"); got != rows {
		t.Errorf("%s rows came back, want %s", got, rows)
	}
	contains(t, again.Log(), "msg=fetched", "ahead=true", "taken out of the spool")
	if err := last.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := last.cmd.Wait(); err != nil {
		t.Errorf("the agent's end: %v\n%s", err, last.log.String())
	}
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket is left")
	}
}

// awaitArchived waits until the server holds so many more files for archived, if that
// comes soon, and says how long one of them took.
func awaitArchived(pgdata string, files int) time.Duration {
	done := func() int {
		names, _ := filepath.Glob(filepath.Join(pgdata, "pg_wal/archive_status/*.done"))
		return len(names)
	}
	before := done()
	for n, _ := countReady(pgdata); n == 0; n, _ = countReady(pgdata) {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	for done() < before+files && time.Since(began) < 10*time.Second {
		time.Sleep(time.Millisecond)
	}
	return time.Since(began) / time.Duration(files)
}

// compareAcknowledged compares each file that the server holds for archived with
// what the repository gives, and counts them.
func compareAcknowledged(t *testing.T, pgdata, config string) (n int) {
	t.Helper()
	done, err := filepath.Glob(filepath.Join(pgdata, "pg_wal/archive_status/*.done"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range done {
		name := strings.TrimSuffix(filepath.Base(path), ".done")
		want, err := os.ReadFile(filepath.Join(pgdata, "pg_wal", name))
		if err != nil {
			t.Errorf("it cannot be compared: %v", err)
			continue
		}
		dest := filepath.Join(t.TempDir(), "x")
		var out bytes.Buffer
		a := &app{stdout: &out, stderr: &out, getenv: func(string) string { return "" }, clock: time.Now, directory: pgdata}
		if code := a.run(t.Context(), []string{"--config", config, archiveGetName, name, dest}); code != exitOK {
			t.Errorf("%s is acknowledged and cannot be fetched: exit %d\n%s", name, code, out.String())
			continue
		}
		if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s came back with other content (%v)", name, err)
		}
		n++
	}
	return n
}
