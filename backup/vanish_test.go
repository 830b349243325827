package backup

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestWhatIsDroppedDuringTheWalkIsNoError removes things at the moment at which
// the walk has met them and not read them yet.
func TestWhatIsDroppedDuringTheWalkIsNoError(t *testing.T) {
	for _, c := range []struct {
		title  string
		at     string // the path at which it happens
		remove string
	}{
		{"a database", "base/5", "base/5"},
		{"a file of the directory that is being walked", "base/5/1", "base/5/2"},
		{"the link of a tablespace", "base/5/1", "pg_tblspc/16400"},
		{"the directory of a tablespace", "pg_tblspc/16400", "pg_tblspc/16400/" + testVersion},
	} {
		t.Run(c.title, func(t *testing.T) {
			root, space := t.TempDir(), t.TempDir()
			makeFiles(t, root, "base/5/1", "base/5/2", "global/1", "pg_tblspc/")
			makeFiles(t, space, testVersion+"/5/1")
			if err := os.Symlink(space, filepath.Join(root, "pg_tblspc/16400")); err != nil {
				t.Fatal(err)
			}
			var met []string
			w := &walker{root: root, version: testVersion, owners: newOwners(), tablespaces: map[string]bool{},
				warn: func(format string, args ...any) { t.Errorf("warning: "+format, args...) }}
			w.emit = func(it item) error {
				met = append(met, it.file.Path)
				if it.file.Path == c.at {
					return os.RemoveAll(filepath.Join(root, c.remove))
				}
				return nil
			}
			if err := w.walk(context.Background()); err != nil {
				t.Error(err)
			}
			if !slices.Contains(met, c.at) || !slices.Contains(met, "global/1") {
				t.Errorf("met %q", met)
			}
		})
	}
}

// TestALinkThatVanishesIsNoError meets a link that is gone before it is read.
func TestALinkThatVanishesIsNoError(t *testing.T) {
	w := &walker{root: t.TempDir(), owners: newOwners(), emit: func(item) error { return nil },
		warn: func(format string, args ...any) { t.Errorf("warning: "+format, args...) }}
	it := item{name: filepath.Join(w.root, "pg_tblspc", "16400")}
	it.file.Path = "pg_tblspc/16400"
	if err := w.link(context.Background(), it); err != nil {
		t.Error(err)
	}
}
