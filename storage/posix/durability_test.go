package posix

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/storage"
)

// watchSync makes st tell what it fsyncs: directories by their path with a slash
// at the end, files as "draft". The names are prefixed by what exists of
// the object at this moment: nothing, or "+".
func watchSync(t *testing.T, st *Store, root, key string, synced *[]string) {
	st.sync = func(f *os.File) error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		what := "draft"
		if info.IsDir() {
			rel, err := filepath.Rel(root, f.Name())
			if err != nil {
				t.Error(err)
			}
			what = rel + "/"
		}
		if _, err := os.Lstat(filepath.Join(root, key)); err == nil {
			what = "+" + what
		}
		*synced = append(*synced, what)
		return f.Sync()
	}
}

func TestWhatAPutSyncs(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		var synced []string
		watchSync(t, st, root, "a/b/c", &synced)
		put := func(title string, o storage.PutOptions, wantErr error, want ...string) {
			t.Helper()
			synced = nil
			if err := st.Put(t.Context(), "a/b/c", storage.Bytes([]byte(title)), o); !errors.Is(err, wantErr) {
				t.Fatalf("%s: put gave %v", title, err)
			}
			if !slices.Equal(synced, want) {
				t.Errorf("%s: synced %q, want %q", title, synced, want)
			}
		}
		put("a first put syncs the draft, each new directory's parent, and then the entry", ifAbsent, nil, "draft", "./", "a/", "+a/b/")
		put("a put in old directories syncs the draft and the entry", replacing, nil, "+draft", "+a/b/")
		put("a put that finds the key taken syncs the entry of the other", ifAbsent, storage.ErrExist, "+a/b/")
		markNew(t, filepath.Join(root, "a"))
		put("directories that others made and may not have synced are synced", replacing, nil, "+draft", "+./", "+a/b/")
		put("but only once", replacing, nil, "+draft", "+a/b/")
		markNew(t, filepath.Join(root, "a/b"))
		put("also when the key is taken", ifAbsent, storage.ErrExist, "+a/", "+a/b/")
	})
}

func TestDirectoriesAreSyncedWhereMkdirLosesTheMark(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, root, false)
	var synced []string
	watchSync(t, st, root, "none", &synced)
	dirs, made, err := st.makeDirectory("a/b")
	if err != nil || !made {
		t.Fatal(made, err)
	}
	defer dirs.close()
	for _, dir := range []string{"a", "a/b"} {
		// As on a FUSE file system under a narrow umask.
		if err := unix.Chmod(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.confirm(dirs); err != nil {
		t.Fatal(err)
	}
	if want := []string{"./", "a/"}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
	for _, dir := range []string{"a", "a/b"} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != directoryMode {
			t.Errorf("mode of %s is %v (%v), want %o", dir, info.Mode(), err, directoryMode)
		}
	}
}

// markNew leaves a directory as a process does that is killed after mkdir.
func markNew(t *testing.T, path string) {
	t.Helper()
	if err := unix.Chmod(path, directoryMode|unix.S_ISVTX); err != nil {
		t.Fatal(err)
	}
}

func TestADeleteIsDurable(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, root, false)
	for _, key := range []string{"a/b/1", "a/b/2", "a/c"} {
		mustPut(t, st, key, "x")
	}
	var synced []string
	watchSync(t, st, root, "a/c", &synced)
	del := func(want string, keys ...string) {
		t.Helper()
		synced = nil
		if err := st.Delete(t.Context(), keys...); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(synced, " "); got != want {
			t.Errorf("delete of %q synced %q, want %q", keys, got, want)
		}
	}
	del("+a/b/", "a/b/1", "a/b/2")
	del("+a/", "a/b/1") // its directory is gone, perhaps by a Delete that was killed
	del("a/", "a/c")
	del("./", "a/c")
}

func TestAFailedSyncFailsThePut(t *testing.T) {
	isDir := func(f *os.File) bool {
		info, err := f.Stat()
		return err == nil && info.IsDir()
	}
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		st.sync = func(f *os.File) error {
			if isDir(f) {
				return f.Sync()
			}
			return &fs.PathError{Op: "sync", Path: f.Name(), Err: unix.EIO}
		}
		for _, o := range []storage.PutOptions{replacing, ifAbsent} {
			if err := st.Put(t.Context(), "a/b", storage.Bytes([]byte("x")), o); !errors.Is(err, unix.EIO) {
				t.Errorf("put gave %v, want EIO", err)
			}
			wantTree(t, root)
		}
		for _, cause := range []error{unix.EIO, unix.EINVAL} {
			st.sync = func(f *os.File) error {
				if isDir(f) {
					return &fs.PathError{Op: "sync", Path: f.Name(), Err: cause}
				}
				return f.Sync()
			}
			err := st.Put(t.Context(), "b", storage.Bytes([]byte("x")), replacing)
			if cause == unix.EIO && !errors.Is(err, unix.EIO) {
				t.Errorf("put whose directory cannot be synced gave %v, want EIO", err)
			}
			if cause == unix.EINVAL && err != nil {
				t.Errorf("put where directories take no fsync gave %v", err)
			}
		}
	})
}

func TestWhatANetworkFileSystemSaysMayPass(t *testing.T) {
	for cause, want := range map[error]bool{
		unix.ESTALE: true, unix.ETIMEDOUT: true, unix.EAGAIN: true,
		unix.EIO: false, unix.ENOSPC: false, unix.EDQUOT: false, unix.EROFS: false, unix.EACCES: false, unix.ENXIO: false,
	} {
		st := openTest(t, t.TempDir(), false)
		mustPut(t, st, "old", "x")
		st.sync = func(f *os.File) error { return &fs.PathError{Op: "sync", Path: f.Name(), Err: cause} }
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{ctx: t.Context(), file: file, content: io.NewSectionReader(failingFile{cause}, 0, 10)}
		_, readErr := r.Read(make([]byte, 10))
		for what, err := range map[string]error{
			"put": st.Put(t.Context(), "a", storage.Bytes(nil), replacing), "put-if-absent": st.Put(t.Context(), "b", storage.Bytes(nil), ifAbsent),
			"delete": st.Delete(t.Context(), "old"), "read": readErr, "an operation": st.fault("stat", "a", fmt.Errorf("stat x: %w", cause)),
		} {
			if !errors.Is(err, cause) || errors.Is(err, storage.ErrTransient) != want {
				t.Errorf("%s that met %v gave %v, want it to be transient: %v", what, cause, err, want)
			}
		}
		r.Close()
	}
}

type failingFile struct{ err error }

func (f failingFile) ReadAt([]byte, int64) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: "x", Err: f.err}
}

// needMount ends a test that cannot mount: as skipped where the environment says
// so, as failed elsewhere. It is for the whole test, so that a test whose parts
// were all skipped is not told as passed.
func needMount(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("PGBAK_TEST_UNPRIVILEGED") != "" {
		t.Skip("not run: mounting a tmpfs takes root, and PGBAK_TEST_UNPRIVILEGED says to go without")
	}
	t.Fatal("mounting a tmpfs takes root; set PGBAK_TEST_UNPRIVILEGED=1 to leave this test out")
}

// mountTmpfs gives a directory on a file system of its own.
func mountTmpfs(t *testing.T, options string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "pgbak-test", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func TestNoSpaceLeft(t *testing.T) {
	needMount(t)
	for _, d := range drafts {
		t.Run(d.title, func(t *testing.T) {
			root := mountTmpfs(t, "size=2m")
			st := openTest(t, root, d.named)
			mustPut(t, st, "old", "old")
			large := make([]byte, 3<<20)
			for _, o := range []storage.PutOptions{replacing, ifAbsent} {
				err := st.Put(t.Context(), "a/b/large", storage.Bytes(large), o)
				if !errors.Is(err, storage.ErrNoSpace) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "a/b/large") {
					t.Errorf("put gave %v, want ErrNoSpace, its cause and the key", err)
				}
				wantTree(t, root, "old")
			}
			if err := st.Put(t.Context(), "old", storage.Bytes(large), replacing); !errors.Is(err, storage.ErrNoSpace) {
				t.Errorf("replacing put gave %v", err)
			}
			if b, err := storage.ReadAll(t.Context(), st, "old", 100); string(b) != "old" {
				t.Errorf("the old object is %q, %v", b, err)
			}
			mustPut(t, st, "fits", strings.Repeat("x", 1<<20)) // nothing of the failed ones takes room
		})
	}
}

func TestNoRoomForAnotherDirectory(t *testing.T) {
	needMount(t)
	for _, d := range drafts {
		t.Run(d.title, func(t *testing.T) {
			root := mountTmpfs(t, "size=2m,nr_inodes=5")
			st := openTest(t, root, d.named)
			err := st.Put(t.Context(), "a/b/c/d/e/f/g/h", storage.Bytes(nil), ifAbsent)
			if !errors.Is(err, storage.ErrNoSpace) {
				t.Errorf("put gave %v, want ErrNoSpace", err)
			}
			wantTree(t, root)
			mustPut(t, st, "a/b/c", "x")
		})
	}
}

// BenchmarkPut is a pack's way to the disk, fsyncs included.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 20, 32 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			st, err := Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer st.Close()
			content := make([]byte, size)
			b.SetBytes(int64(size))
			for n := 0; b.Loop(); n++ {
				key := fmt.Sprintf("packs/op/%d", n%8)
				if err := st.Put(b.Context(), key, storage.Bytes(content), replacing); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
