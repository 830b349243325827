package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/postgres/server"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

// tarred makes an archive as a server sends it, of files with their content.
func tarred(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(files); i += 2 {
		err := w.WriteHeader(&tar.Header{Name: files[i], Typeflag: tar.TypeReg, Size: int64(len(files[i+1])), Mode: 0o600, Uname: "postgres", Gname: "postgres"})
		if err == nil {
			_, err = w.Write([]byte(files[i+1]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// streamTar does the part of a run that needs no server, with an archive for
// what the server sends.
func streamTar(t *testing.T, typ repo.BackupType, archive []byte, begun func(), to ...Repository) ([]RepositoryResult, error) {
	t.Helper()
	ctx := t.Context()
	o := Options{Repositories: to, Type: typ, From: FromStream, Processes: 2, Clock: time.Now, Log: slog.New(slog.DiscardHandler)}.withDefaults()
	r := &run{o: o, to: newDestinations(ctx, o), header: repo.BackupHeader{Timeline: 1}, pages: &pageErrors{},
		control: postgres.Control{BlockSize: testPage, SegmentBlocks: 131072}}
	r.info.BlockSize = testPage
	err := r.begin(ctx)
	if err == nil {
		begun()
		s := &streamedFiles{run: r, changes: streamedChanges{incremental: typ != repo.Full}}
		c := newCopier(o, r.to, r.control, changes{way: WayFull})
		sum := newFileSum()
		err = c.run(ctx, func(ctx context.Context) error {
			source := newTarSource(s, c)
			source.sum = &sum
			if err := source.archive(ctx, server.BackupArchive{}, bytes.NewReader(archive)); err != nil {
				return err
			}
			return source.closeGroup(ctx)
		})
	}
	if err == nil {
		err = r.commit(ctx)
	}
	r.to.close(ctx)
	return r.to.results(err)
}

// pagesOf makes a relation of pages that are not zero.
func pagesOf(n int) string { return strings.Repeat(strings.Repeat("x", testPage-1)+"\n", n) }

// TestAParentThatCannotBeReadDropsItsRepositoryOnly: what the server leaves out of
// an incremental file, since all parents had it, can no more be found in one.
func TestAParentThatCannotBeReadDropsItsRepositoryOnly(t *testing.T) {
	good, bad := place{"good", "none", "", mem.New()}, place{"bad", "none", "", mem.New()}
	bad.open(t)
	var broken atomic.Bool
	bad.store = faulty.New(bad.store, func(_ context.Context, op faulty.Op) error {
		if broken.Load() && op.Name == faulty.OpGet && strings.HasPrefix(op.Key, "maps/") {
			return faulty.ErrInjected
		}
		return nil
	}, nil)
	to := []Repository{bad.open(t), good.open(t)}
	if _, err := streamTar(t, repo.Full, tarred(t, "base/5/100", pagesOf(40)), func() {}, to...); err != nil {
		t.Fatal(err)
	}
	head := binary.LittleEndian.AppendUint32(nil, 0xd3ae1f0d)
	for _, n := range []uint32{1, 40, 3} { // one block, of 40: number 3
		head = binary.LittleEndian.AppendUint32(head, n)
	}
	page := strings.Repeat("y", testPage)
	changed := string(append(head, make([]byte, testPage-len(head))...)) + page
	results, err := streamTar(t, repo.Incremental, tarred(t, "base/5/INCREMENTAL.100", changed), func() { broken.Store(true) }, to...)
	if !errors.Is(err, faulty.ErrInjected) || !strings.Contains(err.Error(), "repository bad: the server sends changes of base/5/100, which cannot be read in the parent any more") {
		t.Errorf("error %v", err)
	}
	if len(results) != 2 || results[0].Err == nil || results[1].Err != nil {
		t.Fatalf("results %+v", results)
	}
	want := pagesOf(3) + page + pagesOf(36)
	if got := contentOf(t, to[1].Stanza, results[1].Header.Label, "base/5/100"); got != want {
		t.Error("the good repository's content is not that of the server")
	}
}

// contentOf reads a file of a backup.
func contentOf(t *testing.T, s *repo.Stanza, label repo.Label, path string) string {
	t.Helper()
	b, err := s.OpenBackup(t.Context(), label)
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range b.Files(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if f.Path != path {
			continue
		}
		extents, err := b.Extents(t.Context(), f, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, f.Size)
		for _, e := range extents {
			if err := b.ReadExtent(t.Context(), e, got[e.Offset:e.Offset+e.Length]); err != nil {
				t.Fatal(err)
			}
		}
		return string(got)
	}
	t.Fatalf("there is no file %s", path)
	return ""
}

// TestAFileThatIsOnlyNamedLikeChanges is the user's own, and none of the server's.
func TestAFileThatIsOnlyNamedLikeChanges(t *testing.T) {
	to := place{"only", "none", "", mem.New()}.open(t)
	results, err := streamTar(t, repo.Full, tarred(t, "base/5/100", pagesOf(40)), func() {}, to)
	if err == nil {
		results, err = streamTar(t, repo.Incremental, tarred(t, "base/5/INCREMENTAL.notes", "mine"), func() {}, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := contentOf(t, to.Stanza, results[0].Header.Label, "base/5/INCREMENTAL.notes"); got != "mine" {
		t.Errorf("%q", got)
	}
}

// TestWhatAnArchiveMayNotHold: an archive that is cut or names what is outside of
// the cluster is refused, or the path is left out.
func TestWhatAnArchiveMayNotHold(t *testing.T) {
	whole := tarred(t, "base/5/100", pagesOf(40))
	for name, archive := range map[string][]byte{"a file is cut": whole[:100*1024], "a header is cut": whole[:300], "no archive": bytes.Repeat([]byte("x"), 2048)} {
		to := place{"only", "none", "", mem.New()}.open(t)
		if results, err := streamTar(t, repo.Full, archive, func() {}, to); err == nil || results[0].Err == nil {
			t.Errorf("%s: a backup was made, error %v", name, err)
		}
	}
	to := place{"only", "none", "", mem.New()}.open(t)
	results, err := streamTar(t, repo.Full, tarred(t, "../up", "x", "base/../../up", "x", "/etc/up", "x", "base//up", "x", "base/5/"+strings.Repeat("long/", 300)+"up", "x", "base/5/7", "x"), func() {}, to)
	if err != nil {
		t.Fatal(err)
	}
	b, err := to.Stanza.OpenBackup(t.Context(), results[0].Header.Label)
	if err != nil {
		t.Fatal(err)
	}
	for f, err := range b.Files(t.Context()) {
		if err != nil || f.Path != "base/5/7" {
			t.Errorf("%s is in the backup, %v", f.Path, err)
		}
	}
}
