package agent

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/hint"
)

const listenAt = "PGBAK_TEST_LISTEN_AT"

// TestListener is no test but the process of another user, which listens.
func TestListener(t *testing.T) {
	path := os.Getenv(listenAt)
	if path == "" {
		t.Skip("only as a process of its own")
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("listening\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin) // until the test ends
	l.Close()
}

// listening starts a process of a user that listens at a path.
func listening(t *testing.T, path string, uid uint32) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestListener$")
	cmd.Env = append(os.Environ(), listenAt+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "listening\n" {
		t.Fatal(line, err)
	}
}

// Where everybody may put a socket, as in /tmp, who listens is not the agent just
// because the agent is away.
func TestWhoListensIsNotBelievedWhereEverybodyMay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to listen as another user")
	}
	base, err := os.MkdirTemp("", "agent") // others have to get through it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	const other = 65534
	for title, c := range map[string]struct {
		mode    os.FileMode
		uid     uint32
		refused bool
	}{
		"another user in a place for everybody":  {os.ModeSticky | 0o777, other, true},
		"root in a place for everybody":          {os.ModeSticky | 0o777, 0, false},
		"another user in a place of its own":     {0o755, other, false},
		"in one for others without a sticky bit": {0o777, other, false},
		"in a sticky one for itself":             {os.ModeSticky | 0o755, other, false},
	} {
		t.Run(title, func(t *testing.T) {
			dir, err := os.MkdirTemp(base, "")
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.Chown(dir, other, other), os.Chmod(dir, c.mode)); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "socket")
			listening(t, path, c.uid)
			conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			err = Client{Socket: path, Clock: time.Now}.checkListener(conn)
			if !c.refused {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "user 65534 listens at "+path) || !strings.Contains(hint.Of(err), "set agent.socket to a path") {
				t.Errorf("%v, hint %q", err, hint.Of(err))
			}
		})
	}
	gone := filepath.Join(base, "gone", "socket")
	if err := (Client{Socket: gone}).checkListener(nil); !errors.Is(err, ErrAway) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
