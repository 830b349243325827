package posix

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
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
	faults := make(chan map[string]error)
	go func() {
		// Root may read everything, so this thread becomes another user for
		// the kernel's checks of files. Locked, it ends with this goroutine.
		runtime.LockOSThread()
		if os.Geteuid() == 0 {
			if err := unix.Setfsuid(65534); err != nil {
				t.Error(err)
			}
		}
		_, getErr := st.Get(t.Context(), "a/b/c", storage.Range{})
		_, statErr := st.Stat(t.Context(), "a/b/none")
		faults <- map[string]error{
			"get": getErr, "stat": statErr, "list": listError(st, "a/"), "delete": st.Delete(t.Context(), "a/b/c"),
		}
	}()
	for what, err := range <-faults {
		if !errors.Is(err, unix.EACCES) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s without permission gave %v, want EACCES", what, err)
		}
	}
}
