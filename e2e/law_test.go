package e2e

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/pgbak/pgbak/internal/crc32c"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/posix"
)

// openStanza opens the stanza of a repository through a store.
func openStanza(ctx context.Context, st storage.Store) (*repo.Stanza, error) {
	r, err := repo.Open(ctx, st, repo.Options{Clock: time.Now})
	if err != nil {
		return nil, err
	}
	return r.Stanza(ctx, "main")
}

// store is the storage of the host's repository, with nothing between.
func (h *host) store(t *testing.T) storage.Store {
	t.Helper()
	if h.bucket != nil {
		return h.bucket.store(t)
	}
	st, err := posix.Open(h.repo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// mustOpen opens the host's repository, which is not encrypted.
func (h *host) mustOpen(t *testing.T) (storage.Store, *repo.Stanza) {
	t.Helper()
	st := h.store(t)
	s, err := openStanza(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	return st, s
}

// readBackup reads all content of a backup and compares it with the checksums
// in the manifest.
func readBackup(ctx context.Context, s *repo.Stanza, label repo.Label) error {
	b, err := s.OpenBackup(ctx, label)
	if err != nil {
		return err
	}
	files := 0
	for f, err := range b.Files(ctx) {
		if err != nil {
			return err
		}
		if f.Type != repo.TypeFile {
			continue
		}
		files++
		if err := readFile(ctx, b, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if files < 500 {
		return fmt.Errorf("backup %s holds %d files only", label, files)
	}
	return nil
}

func readFile(ctx context.Context, b *repo.Backup, f repo.File) error {
	extents, err := b.Extents(ctx, f, 1<<20)
	if err != nil {
		return err
	}
	crc, size := uint32(0), int64(0)
	for _, e := range extents {
		content := make([]byte, e.Length)
		if err := b.ReadExtent(ctx, e, content); err != nil {
			return err
		}
		crc, size = crc32c.Update(crc, content), size+e.Length
	}
	if size != f.Size || f.HasCRC && crc != f.CRC32C {
		return fmt.Errorf("%d bytes with checksum %08x, the manifest says %d with %08x", size, crc, f.Size, f.CRC32C)
	}
	return nil
}

// law is what must hold of the repository after every fault: it answers, and
// every backup that it lists is whole. It returns the labels.
func law(t *testing.T, s *repo.Stanza, checked map[repo.Label]bool) {
	t.Helper()
	catalog, err := s.Catalog(t.Context())
	if err != nil {
		t.Fatalf("the repository does not answer: %v", err)
	}
	for _, b := range catalog.Backups {
		if b.Err != nil {
			t.Fatalf("backup %s is listed and damaged: %v", b.Label, b.Err)
		}
		if checked[b.Label] {
			continue
		}
		if err := readBackup(t.Context(), s, b.Label); err != nil {
			t.Fatalf("backup %s is listed and cannot be read: %v", b.Label, err)
		}
		checked[b.Label] = true
	}
}

// forget removes the manifests of all backups but the kept ones, and the pins
// that failed runs left: each is looked at when a backup begins, so that the
// count of operations would run away.
func forget(t *testing.T, st storage.Store, checked, kept map[repo.Label]bool) {
	t.Helper()
	for label := range checked {
		if kept[label] {
			continue
		}
		if err := st.Delete(t.Context(), "backups/main/"+string(label)); err != nil {
			t.Fatal(err)
		}
		delete(checked, label)
	}
	for pin, err := range st.List(t.Context(), "pins/", "") {
		if err == nil {
			err = st.Delete(t.Context(), pin.Key)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// newRepository makes an empty repository for the cluster with this identity.
func newRepository(t *testing.T, id repo.Identity) storage.Store {
	t.Helper()
	st, err := posix.Create(filepath.Join(t.TempDir(), "repo"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r, err := repo.Create(t.Context(), st, repo.Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	id.Number, id.Created = 0, time.Time{}
	if _, err := r.CreateStanza(t.Context(), "main", id); err != nil {
		t.Fatal(err)
	}
	return st
}

// archived reads a WAL file back, to its end.
func archived(t *testing.T, st storage.Store, name string) ([]byte, error) {
	t.Helper()
	s, err := openStanza(t.Context(), st)
	if err != nil {
		return nil, err
	}
	f, err := postgres.ParseWALFile(name, s.Current().SegmentSize)
	if err != nil {
		return nil, err
	}
	r, err := s.OpenWAL(t.Context(), s.Current(), f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}
