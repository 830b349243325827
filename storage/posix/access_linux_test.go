package posix

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

func TestNoPermissionIsNoProofOfAbsence(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, root, false)
	mustPut(t, st, "a/b/c", "x")
	if err := os.Chmod(filepath.Join(root, "a/b"), 0); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Join(root, "a")} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "a/b"), 0o750) })
	faults := map[string]error{}
	asNobody(t, func() {
		_, faults["get"] = st.Get(t.Context(), "a/b/c", storage.Range{})
		_, faults["stat"] = st.Stat(t.Context(), "a/b/none")
		faults["list"] = listError(st, "a/")
		faults["delete"] = st.Delete(t.Context(), "a/b/c")
	})
	for what, err := range faults {
		if !errors.Is(err, unix.EACCES) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s without permission gave %v, want EACCES", what, err)
		}
	}
}

const nobody = 65534

// asNobody runs do as a user who may not do everything: root may read and write
// what no mode allows, so a thread becomes another user for the kernel's checks
// of files. It stays locked and ends with its goroutine.
func asNobody(t *testing.T, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(nobody); err != nil {
				t.Error(err)
			}
		}
		do()
	}()
	<-done
}

func TestAnyUmaskWillDoForAnOrdinaryUser(t *testing.T) {
	for _, umask := range []int{0o000, 0o077, 0o777} {
		eachDraft(t, func(t *testing.T, root string, st *Store) {
			if os.Geteuid() == 0 {
				if err := os.Chown(root, nobody, -1); err != nil {
					t.Fatal(err)
				}
			}
			defer unix.Umask(unix.Umask(umask))
			// Of several at once, each may meet the directories of the others.
			var wg sync.WaitGroup
			for i := range 4 {
				wg.Go(func() {
					asNobody(t, func() {
						for _, content := range []string{"first", "replaced"} {
							key := fmt.Sprint("a/b/", i)
							if err := st.Put(t.Context(), key, storage.Bytes([]byte(content)), replacing); err != nil {
								t.Errorf("umask %03o: %v", umask, err)
							} else if got, err := storage.ReadAll(t.Context(), st, key, 100); string(got) != content || err != nil {
								t.Errorf("umask %03o: read %q, %v", umask, got, err)
							}
						}
					})
				})
			}
			wg.Wait()
			for path, want := range map[string]fs.FileMode{"a": fs.ModeDir | 0o750, "a/b": fs.ModeDir | 0o750, "a/b/0": 0o640, "a/b/3": 0o640} {
				info, err := os.Lstat(filepath.Join(root, path))
				if err != nil {
					t.Error(err)
				} else if info.Mode() != want {
					t.Errorf("umask %03o: %s has mode %v, want %v", umask, path, info.Mode(), want)
				}
			}
		})
	}
}

// The root of a volume of Kubernetes has a directory that is not for its users.
func TestALostAndFoundDoesNotDisturb(t *testing.T) {
	root := t.TempDir()
	if os.Geteuid() == 0 {
		if err := os.Chown(root, nobody, -1); err != nil {
			t.Fatal(err)
		}
	}
	hidden := filepath.Join(root, "lost+found")
	if err := os.Mkdir(hidden, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(hidden, 0o700) })
	st := openTest(t, root, false)
	asNobody(t, func() {
		if err := st.Put(t.Context(), "stanza/a", storage.Bytes(nil), ifAbsent); err != nil {
			t.Error(err)
		}
		for _, prefix := range []string{"s", "stanza/", "stanza/a", "p"} {
			if err := listError(st, prefix); err != nil {
				t.Errorf("list of %q: %v", prefix, err)
			}
		}
		// What begins anywhere may begin there: that it cannot be read is not hidden.
		if err := listError(st, ""); !errors.Is(err, unix.EACCES) {
			t.Errorf("list of everything gave %v", err)
		}
	})
}
