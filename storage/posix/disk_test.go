package posix

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

var (
	replacing = storage.PutOptions{}
	ifAbsent  = storage.PutOptions{IfAbsent: true}
)

func mustPut(t *testing.T, st storage.Store, key, content string) {
	t.Helper()
	if err := st.Put(t.Context(), key, storage.Bytes([]byte(content)), replacing); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is on disk below root, directories with a slash at the end.
func tree(t *testing.T, root string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, path); d != nil && rel != "." {
			if d.IsDir() {
				rel += "/"
			}
			paths = append(paths, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func wantTree(t *testing.T, root string, want ...string) {
	t.Helper()
	if got := tree(t, root); !slices.Equal(got, want) {
		t.Errorf("on disk there is %q, want %q", got, want)
	}
}

// eachDraft runs a test for both ways of writing.
func eachDraft(t *testing.T, test func(t *testing.T, root string, st *Store)) {
	for _, d := range drafts {
		t.Run(d.title, func(t *testing.T) {
			root := t.TempDir()
			test(t, root, openTest(t, root, d.named))
		})
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	for _, umask := range []int{0o000, 0o022, 0o077, 0o777} {
		eachDraft(t, func(t *testing.T, root string, st *Store) {
			defer unix.Umask(unix.Umask(umask))
			mustPut(t, st, "a/b/c", "first")
			mustPut(t, st, "a/b/c", "replaced")
			created, err := Create(filepath.Join(root, "x", "y"))
			if err != nil {
				t.Fatal(err)
			}
			created.Close()
			for path, want := range map[string]fs.FileMode{
				"a": fs.ModeDir | 0o750, "a/b": fs.ModeDir | 0o750, "a/b/c": 0o640, "x": fs.ModeDir | 0o750, "x/y": fs.ModeDir | 0o750,
			} {
				info, err := os.Lstat(filepath.Join(root, path))
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != want {
					t.Errorf("with umask %03o, %s has mode %v, want %v", umask, path, info.Mode(), want)
				}
			}
		})
	}
}

func TestSetGroupIDIsPassedOn(t *testing.T) {
	root := t.TempDir()
	if err := unix.Chmod(root, 0o2750); err != nil {
		t.Fatal(err)
	}
	mustPut(t, openTest(t, root, false), "a/b", "x")
	info, err := os.Stat(filepath.Join(root, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fs.ModeDir | fs.ModeSetgid | 0o750; info.Mode() != want {
		t.Errorf("mode is %v, want %v", info.Mode(), want)
	}
}

func TestDirectoriesComeAndGoWithTheirObjects(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		mustPut(t, st, "a/b/c", "1")
		mustPut(t, st, "a/d", "2")
		mustPut(t, st, "a/d", "3")
		wantTree(t, root, "a/", "a/b/", "a/b/c", "a/d")
		if err := st.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		wantTree(t, root, "a/", "a/d")
		if err := st.Delete(t.Context(), "a/d"); err != nil {
			t.Fatal(err)
		}
		wantTree(t, root)
	})
}

func TestAFailedPutLeavesNothing(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		for _, o := range []storage.PutOptions{replacing, ifAbsent} {
			err := st.Put(t.Context(), "a/b/c", storage.File(filepath.Join(root, "none"), 5), o)
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("put of a file that is not there gave %v", err)
			}
			wantTree(t, root)
		}
	})
}

func TestAKeyCannotBeBothObjectAndDirectory(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		mustPut(t, st, "a/b/c", "x")
		for _, o := range []storage.PutOptions{replacing, ifAbsent} {
			for _, key := range []string{"a/b", "a/b/c/d", "a/b/c/d/e"} {
				err := st.Put(t.Context(), key, storage.Bytes(nil), o)
				if err == nil || errors.Is(err, storage.ErrExist) || !strings.Contains(err.Error(), key) {
					t.Errorf("put %q beside a/b/c gave %v, want an error that names the key and is not ErrExist", key, err)
				}
			}
		}
		wantTree(t, root, "a/", "a/b/", "a/b/c")
	})
}

func TestFilesThatCannotBeObjectsAreNotListed(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, root, false)
	mustPut(t, st, "b", "x")
	for _, name := range []string{"a\n", "\xff\xfe", `c\d`} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var keys []string
	for o, err := range st.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	if !slices.Equal(keys, []string{"b"}) {
		t.Errorf("list gave %q, want b alone", keys)
	}
}

func TestSymbolicLinksAreRefused(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		outside := t.TempDir()
		if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustPut(t, st, "inside/object", "x")
		for name, target := range map[string]string{
			"absolute": outside, "relative": "../" + filepath.Base(outside), "within": "inside",
			"file": filepath.Join(outside, "secret"), "dangling": "nowhere",
		} {
			link := filepath.Join(root, name)
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			refuseLink(t, st, name)
			if name != "file" && name != "dangling" {
				refuseLink(t, st, name+"/secret")
				refuseLink(t, st, name+"/new/secret")
			}
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
		}
		wantTree(t, outside, "secret")
		wantTree(t, root, "inside/", "inside/object")
	})
}

// refuseLink holds that a key which is, or goes through, a symbolic link is an
// error of every operation that would follow it, and no proof of absence.
func refuseLink(t *testing.T, st *Store, key string) {
	t.Helper()
	ctx := t.Context()
	_, getErr := st.Get(ctx, key, storage.Range{})
	_, statErr := st.Stat(ctx, key)
	faults := map[string]error{
		"get": getErr, "stat": statErr, "list": listError(st, key), "list of its directory": listError(st, ""),
		"put-if-absent": st.Put(ctx, key, storage.Bytes(nil), ifAbsent),
	}
	if strings.Contains(key, "/") {
		faults["put"] = st.Put(ctx, key, storage.Bytes(nil), replacing)
		faults["delete"] = st.Delete(ctx, key)
	}
	for what, err := range faults {
		if !errors.Is(err, errSymlink) || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("%s of %q, a symbolic link, gave error %v", what, key, err)
		}
	}
}

func listError(st storage.Store, prefix string) error {
	for _, err := range st.List(context.Background(), prefix, "") {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestWhatIsNeitherFileNorDirectoryIsAnError(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := st.Get(t.Context(), "fifo", storage.Range{}) // and does not wait for a writer
		if !errors.Is(err, errNotRegular) {
			t.Errorf("get gave %v", err)
		}
		if err := listError(st, ""); !errors.Is(err, errNotRegular) {
			t.Errorf("list gave %v", err)
		}
		for _, o := range []storage.PutOptions{replacing, ifAbsent} {
			if err := st.Put(t.Context(), "fifo/below", storage.Bytes(nil), o); !errors.Is(err, unix.ENOTDIR) {
				t.Errorf("put below it gave %v", err)
			}
		}
	})
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	_, err := Open(filepath.Join(dir, "none"))
	if !errors.Is(err, fs.ErrNotExist) || hint.Of(err) == "" || !strings.Contains(err.Error(), dir) {
		t.Errorf("open of a directory that is not there gave %v with hint %q", err, hint.Of(err))
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, open := range map[string]func(string) (*Store, error){"open": Open, "create": Create} {
		if _, err := open(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s of a file gave %v, want an error that names it", what, err)
		}
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	st := openTest(t, link, false) // the root itself is the user's choice
	mustPut(t, st, "a", "x")
	if got, want := st.Properties().Location, "file://"+link; got != want {
		t.Errorf("location is %q, want %q", got, want)
	}
}

func TestARemovedRootIsNoProofOfAbsence(t *testing.T) {
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		mustPut(t, st, "a/b", "x")
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		_, getErr := st.Get(t.Context(), "a/b", storage.Range{})
		_, statErr := st.Stat(t.Context(), "a")
		for what, err := range map[string]error{
			"get": getErr, "stat": statErr, "list": listError(st, ""), "list below": listError(st, "a/"),
			"put":  st.Put(t.Context(), "a/b", storage.Bytes(nil), replacing),
			"put2": st.Put(t.Context(), "b", storage.Bytes(nil), ifAbsent),
		} {
			if err == nil || errors.Is(err, storage.ErrNotExist) || !strings.Contains(err.Error(), "was removed") {
				t.Errorf("%s below a removed root gave %v", what, err)
			}
		}
	})
}

func TestTemporaryFilesAreHiddenAndSwept(t *testing.T) {
	root := t.TempDir()
	st := openTest(t, root, true)
	mustPut(t, st, "a/b/object", "x")
	left := storage.TemporaryPrefix + "LEFT"
	for _, dir := range []string{"", "a", "a/b"} {
		if err := os.WriteFile(filepath.Join(root, dir, left), []byte("half"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := st.openDirectory("a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	living, err := st.newDraft(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	for o, err := range st.List(t.Context(), "", "") {
		if err != nil || o.Key != "a/b/object" {
			t.Errorf("list gave %q, %v", o.Key, err)
		}
	}
	if n, err := st.Sweep(t.Context(), ""); n != 3 || err != nil {
		t.Errorf("sweep removed %d and gave %v, want 3", n, err)
	}
	if err := living.publish("finished", true); err != nil {
		t.Errorf("a draft in use did not survive the sweep: %v", err)
	}
	if err := living.discard(); err != nil {
		t.Error(err)
	}
	wantTree(t, root, "a/", "a/b/", "a/b/finished", "a/b/object")
	if n, err := st.Sweep(t.Context(), "none/at/all"); n != 0 || err != nil {
		t.Errorf("sweep of nothing gave %d, %v", n, err)
	}
}

// meddlesome is a source that does something when it is opened.
type meddlesome struct {
	storage.Source
	meddle func()
}

func (m meddlesome) Open() (io.ReadCloser, error) {
	m.meddle()
	return m.Source.Open()
}

func TestAPutBeginsAgainWhenItsDirectoryOrDraftVanishes(t *testing.T) {
	vanishing := map[string]func(root string) error{
		"the directory": func(root string) error { return os.RemoveAll(filepath.Join(root, "a")) },
		"the draft": func(root string) error {
			drafts, err := filepath.Glob(filepath.Join(root, "a/b", storage.TemporaryPrefix+"*"))
			for _, draft := range drafts {
				err = errors.Join(err, os.Remove(draft))
			}
			return err
		},
	}
	eachDraft(t, func(t *testing.T, root string, st *Store) {
		for what, vanish := range vanishing {
			for _, o := range []storage.PutOptions{replacing, ifAbsent} {
				times := 3
				src := meddlesome{storage.Bytes(bytes.Repeat([]byte("x"), 1000)), func() {
					if times--; times >= 0 {
						if err := vanish(root); err != nil {
							t.Error(err)
						}
					}
				}}
				if err := st.Put(t.Context(), "a/b/c", src, o); err != nil {
					t.Errorf("put during which %s vanished gave %v", what, err)
				}
				wantTree(t, root, "a/", "a/b/", "a/b/c")
				if err := st.Delete(t.Context(), "a/b/c"); err != nil {
					t.Error(err)
				}
			}
		}
	})
}
