package posix

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgbak/pgbak/storage"
)

// Tests of several processes run this test binary again with these variables.
const (
	envChild = "PGBAK_POSIX_TEST_CHILD" // what the child does: "put" or "race"
	envRoot  = "PGBAK_POSIX_TEST_ROOT"
	envNamed = "PGBAK_POSIX_TEST_NAMED"
)

func TestMain(m *testing.M) {
	child := map[string]func(*Store) error{"put": putForever, "race": raceToCreate}[os.Getenv(envChild)]
	if child == nil {
		os.Exit(m.Run())
	}
	st, err := Open(os.Getenv(envRoot))
	if err == nil {
		st.named.Store(os.Getenv(envNamed) != "")
		err = child(st)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func startChild(t *testing.T, what, root string, named bool) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envChild+"="+what, envRoot+"="+root)
	if named {
		cmd.Env = append(cmd.Env, envNamed+"=1")
	}
	cmd.Stderr = os.Stderr
	return cmd
}

// sealed gives content that shows by itself whether it is whole.
func sealed(n int) []byte {
	b := make([]byte, 8+100_000*(1+n%20), 8+100_000*20+sha256.Size)
	binary.LittleEndian.PutUint64(b, uint64(n))
	for i := 8; i < len(b); i++ {
		b[i] = byte(n + i>>10)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func checkSealed(b []byte) error {
	if len(b) < 8+sha256.Size {
		return fmt.Errorf("%d bytes are no sealed content", len(b))
	}
	body, seal := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], seal) {
		return fmt.Errorf("content of %d bytes is torn", len(b))
	}
	return nil
}

// putForever is the child that gets killed: new objects, replaced ones, and
// deleted ones, whose directories go with them.
func putForever(st *Store) error {
	ctx := context.Background()
	fmt.Println("ready")
	for n := 0; ; n++ {
		deep := fmt.Sprintf("gone/%d/x", n%4)
		err := errors.Join(
			st.Put(ctx, fmt.Sprintf("replaced/%d", n%3), storage.Bytes(sealed(n)), replacing),
			st.Put(ctx, deep, storage.Bytes(sealed(n)), replacing),
			st.Delete(ctx, deep),
		)
		if err == nil {
			err = st.Put(ctx, fmt.Sprintf("new/%d/%d", os.Getpid(), n), storage.Bytes(sealed(n)), ifAbsent)
		}
		if err != nil {
			return err
		}
	}
}

func TestKilledPuts(t *testing.T) {
	const kills = 25
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		for range kills {
			killOne(t, root, st.named.Load())
			for o, err := range st.List(t.Context(), "", "") {
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(o.Key, storage.TemporaryPrefix) {
					t.Errorf("list shows %q", o.Key)
				}
				b, err := storage.ReadAll(t.Context(), st, o.Key, 4<<20)
				if err == nil {
					err = checkSealed(b)
				}
				if err != nil {
					t.Errorf("after a kill, %q: %v", o.Key, err)
				}
			}
			for n := range 3 {
				mustPut(t, st, fmt.Sprintf("replaced/%d", n), string(sealed(n)))
			}
			if err := os.RemoveAll(filepath.Join(root, "new")); err != nil {
				t.Fatal(err)
			}
		}
		left, err := st.Sweep(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d kills left %d temporary files, all swept", kills, left)
		for _, path := range tree(t, root) {
			if strings.Contains(path, storage.TemporaryPrefix) {
				t.Errorf("%s is left after the sweep", path)
			}
		}
	})
}

// killOne starts a child and kills it at a random moment of its work.
func killOne(t *testing.T, root string, named bool) {
	t.Helper()
	cmd := startChild(t, "put", root, named)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("child said %q, %v", line, err)
	}
	time.Sleep(time.Duration(rand.IntN(40_000)) * time.Microsecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Errorf("child ended by itself: %v", err)
	}
}

// raceToCreate puts and deletes objects in a directory that it shares with
// other processes, each with names of its own.
func raceToCreate(st *Store) error {
	ctx := context.Background()
	for n := range 60 {
		key := fmt.Sprintf("shared/%d/dir/%d", n%2, os.Getpid())
		want := fmt.Appendf(nil, "%d %d", os.Getpid(), n)
		if err := st.Put(ctx, key, storage.Bytes(want), ifAbsent); err != nil {
			return err
		}
		if got, err := storage.ReadAll(ctx, st, key, 100); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("read %q back: %q, %w", key, got, err)
		}
		if err := st.Delete(ctx, key); err != nil {
			return err
		}
	}
	return st.Put(ctx, fmt.Sprintf("done/by/%d", os.Getpid()), storage.Bytes(nil), ifAbsent)
}

func TestProcessesShareDirectories(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		const processes = 6
		var children []*exec.Cmd
		for range processes {
			cmd := startChild(t, "race", root, st.named.Load())
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			children = append(children, cmd)
		}
		for _, cmd := range children {
			if err := cmd.Wait(); err != nil {
				t.Errorf("child: %v", err)
			}
		}
		if got := tree(t, root); len(got) != 2+processes {
			t.Errorf("on disk there is %q, want done/by/ and one object of each process", got)
		}
	})
}
