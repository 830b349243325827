package received

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
)

func testIdentity() Identity {
	return Identity{Stanza: "main", SystemID: 7, Major: 17, SegmentSize: 1 << 20}
}

func open(t *testing.T, path string) *Directory {
	t.Helper()
	d, err := Open(path, OS{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// wants checks that an error is ErrDirectory and has words in its text or hint.
func wants(t *testing.T, err error, words ...string) {
	t.Helper()
	if !errors.Is(err, ErrDirectory) {
		t.Fatalf("error %v, want one that is: %v", err, ErrDirectory)
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+" hint: "+hint.Of(err), w) {
			t.Errorf("error %q with hint %q does not say %q", err, hint.Of(err), w)
		}
	}
}

func TestADirectoryThatIsNotFitIsRefused(t *testing.T) {
	base := t.TempDir()
	_, err := Open(filepath.Join(base, "none"), OS{})
	wants(t, err, "no such file", "mode 0700")

	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(file, OS{})
	wants(t, err, "is not a directory")

	public := filepath.Join(base, "public")
	if err := errors.Join(os.Mkdir(public, 0o700), os.Chmod(public, 0o770)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(public, OS{})
	wants(t, err, "can be written by others (mode 0770)", "chmod 0700")

	data := filepath.Join(base, "data")
	inside := filepath.Join(data, "a", "b")
	if err := errors.Join(os.MkdirAll(filepath.Join(data, "global"), 0o700), os.MkdirAll(inside, 0o700),
		os.WriteFile(filepath.Join(data, "global", "pg_control"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = Open(inside, OS{})
	wants(t, err, "is in the data directory "+data, "another disk")
	link := filepath.Join(base, "link")
	if err := os.Symlink(inside, link); err != nil {
		t.Fatal(err)
	}
	_, err = Open(link, OS{})
	wants(t, err, "is in the data directory")

	mine := t.TempDir()
	d := open(t, mine)
	_, err = Open(mine, OS{})
	wants(t, err, "is used by another process", "stop it first")
	_, err = OpenToRead(mine)
	wants(t, err, "is used by another process")
	d.Close()
	if r, err := OpenToRead(mine); err != nil {
		t.Error(err)
	} else {
		r.Close()
	}
	_, err = OpenToRead(base)
	wants(t, err, "name the directory of an archive-receive")
}

func TestADirectoryIsOfOneCluster(t *testing.T) {
	d := open(t, t.TempDir())
	id := testIdentity()
	if err := errors.Join(d.Claim(id), d.Claim(id)); err != nil {
		t.Fatal(err)
	}
	other := id
	other.SystemID = 8
	wants(t, d.Claim(other), "holds WAL of system identifier 7", "the server is of system identifier 8")
	if err := os.WriteFile(d.Path(identityFile), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, d.Claim(id), "is damaged or of another version")

	full := open(t, t.TempDir())
	if err := os.WriteFile(full.Path("000000010000000000000001.partial"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, full.Claim(id), "holds 000000010000000000000001.partial, but no receiver.json")
}

func TestFilesAreInTheOrderOfArchiving(t *testing.T) {
	d := open(t, t.TempDir())
	names := []string{"000000010000000000000003", "000000010000000000000004.partial", "00000002.history", "000000020000000000000004",
		"000000020000000000000005.partial", "0000000A.history"}
	for _, name := range append([]string{"000000010000000000000002.00000028.backup", "00000003.history.draft", "x", "receiver.json"}, names...) {
		if err := os.WriteFile(d.Path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := d.Files(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, f.Name(1<<20))
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%v, want %v", got, names)
	}
	if p, ok, err := d.Position(testIdentity()); err != nil || !ok || p != (Position{Timeline: 2, End: 5 << 20, Next: 5 << 20}) {
		t.Errorf("position %+v %t %v", p, ok, err)
	}
}

func TestAHistoryIsNotReplaced(t *testing.T) {
	d := open(t, t.TempDir())
	one := []byte("1\t0/3000000\tx\n")
	if err := errors.Join(d.PutHistory(2, one), d.PutHistory(2, one)); err != nil {
		t.Fatal(err)
	}
	if err := d.PutHistory(2, []byte("1\t0/4000000\tx\n")); !errors.Is(err, ErrDiffers) {
		t.Errorf("another history: %v", err)
	}
	if err := d.PutHistory(3, []byte("no history")); err == nil {
		t.Error("what is no history was taken")
	}
	if h, err := d.History(2); err != nil || h.Begin() != 0x3000000 {
		t.Errorf("%+v %v", h, err)
	}
	if left, _ := filepath.Glob(d.Path("*" + draftSuffix)); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestForeignWALIsNotMadeDurable begins a segment with bytes that are not its own.
func TestForeignWALIsNotMadeDurable(t *testing.T) {
	d := open(t, t.TempDir())
	s, err := d.Begin(testIdentity(), postgres.WALFile{Timeline: 1, Segment: 3}, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.Write(bytes.Repeat([]byte{1}, 30)); n != 30 || err != nil {
		t.Fatal(n, err)
	}
	_, err = s.Write(bytes.Repeat([]byte{1}, 30))
	if err == nil || !strings.Contains(err.Error(), "000000010000000000000003.partial: WAL page header") {
		t.Errorf("error %v", err)
	}
	if err := s.Sync(); err == nil || s.Durable() != 3<<20 {
		t.Errorf("after foreign WAL: %v, durable up to %s", err, s.Durable())
	}
	if err := s.Complete(); err == nil || !strings.Contains(err.Error(), "has 60 of 1048576 bytes") {
		t.Errorf("a segment that is not full: %v", err)
	}
}

// FuzzDirectory lets a directory hold anything: it is refused, or its files end
// where they may.
func FuzzDirectory(f *testing.F) {
	f.Add([]byte(`{"format":1,"stanza":"main","system-identifier":"7","postgresql-major":17,"wal-segment-size":1048576}`), []byte("1\t0/3000000\tx\n"), make([]byte, 100))
	f.Fuzz(func(t *testing.T, identity, history, partial []byte) {
		d := open(t, t.TempDir())
		for name, content := range map[string][]byte{identityFile: identity, "00000002.history": history, "000000010000000000000001.partial": partial} {
			if err := os.WriteFile(d.Path(name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = d.History(2)
		id, err := d.Identity()
		if err != nil {
			return
		}
		p, ok, err := d.Position(id)
		if err == nil && ok && (p.End < p.Next || p.End > p.Next+postgres.LSN(min(int64(len(partial)), id.SegmentSize))) {
			t.Errorf("position %+v of %d bytes", p, len(partial))
		}
	})
}

// TestOnlyRegularFilesAreRead has a link and a pipe where WAL is expected.
func TestOnlyRegularFilesAreRead(t *testing.T) {
	d := open(t, t.TempDir())
	f := postgres.WALFile{Kind: postgres.WALPartial, Timeline: 1, Segment: 7}
	name := d.Path(f.Name(1 << 20))
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, []byte("secret"), 0o600), os.Symlink(secret, name)); err != nil {
		t.Fatal(err)
	}
	_, err := d.OpenFile(f, 1<<20)
	wants(t, err, name+" is a link")
	if err := errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err = d.OpenFile(f, 1<<20)
	wants(t, err, "is not a regular file")
}
