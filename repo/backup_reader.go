package repo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/repo/codec"
	"github.com/pgbak/pgbak/storage"
)

// Backup is a backup opened for reading: its header and tables are in memory,
// its files and their content are read when asked for. Safe for concurrent use.
type Backup struct {
	stanza  *Stanza
	key     string
	header  BackupHeader
	tables  manifestTables
	data    *dataKeys
	maps    mapBlockCache
	buffers buffers
}

const revokedFormat = "pgbak-revoked"

// OpenBackup reads a manifest's header and tables. ErrNoBackup when there is
// no such backup, ErrRevoked when its label is occupied by a collector.
func (s *Stanza) OpenBackup(ctx context.Context, l Label) (*Backup, error) {
	b := &Backup{stanza: s, key: manifestKey(s.name, l)}
	blocks, body, err := b.openBlocks(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if err := b.readHead(blocks); err != nil {
		return nil, err
	}
	if err := b.checkIdentity(l, blocks.op); err != nil {
		return nil, err
	}
	b.data = &dataKeys{keys: s.repo.keys, wrapped: b.header.WrappedKeys}
	return b, nil
}

// Header is what the backup is.
func (b *Backup) Header() BackupHeader { return b.header }

// openBlocks begins to read the manifest.
func (b *Backup) openBlocks(ctx context.Context) (*blockReader, io.ReadCloser, error) {
	r := b.stanza.repo
	body, err := r.store.Get(ctx, b.key, storage.Range{})
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil, hint.Wrap(fmt.Errorf("%s: %w", b.key, ErrNoBackup), "'pgbak info' lists the backups.")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", b.key, err)
	}
	blocks, err := r.manifestBlocks(b.key, bufio.NewReaderSize(body, 256<<10))
	if err != nil {
		_ = body.Close()
		return nil, nil, err
	}
	return blocks, body, nil
}

// manifestBlocks checks the beginning of a manifest and makes a reader of its blocks.
func (r *Repository) manifestBlocks(key string, in io.Reader) (*blockReader, error) {
	head := make([]byte, objectHeaderSize)
	if n, err := io.ReadFull(in, head); err != nil && !isEnd(err) {
		return nil, fmt.Errorf("read %s: %w", key, err)
	} else if n > 0 && head[0] == '{' {
		return nil, revokedStub(key, io.MultiReader(bytes.NewReader(head[:n]), in))
	} else if err != nil {
		return nil, damagedf(key, "header", "the object ends early")
	}
	op, err := parseObjectHeader(key, manifestMagic, head, r.keys != nil)
	if err != nil {
		return nil, err
	}
	s, err := r.keys.metaSealer(op, key)
	if err != nil {
		return nil, err
	}
	return &blockReader{r: in, s: s, key: key, op: op, dec: codec.NewDecoder()}, nil
}

// revokedStub reads the stub by which a collector occupies the label of a dead operation.
func revokedStub(key string, in io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(in, maxDocument))
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	var stub struct{}
	if _, err := decodeDocument(key, revokedFormat, data, &stub); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", key, ErrRevoked)
}

// readHead reads header and tables.
func (b *Backup) readHead(blocks *blockReader) error {
	for _, want := range []struct {
		typ  byte
		name string
		read func([]byte) error
	}{
		{blockHeaderJSON, "header", b.readHeader},
		{blockPacks, "table of packs", b.tables.decodePacks},
		{blockRefs, "table of frames", b.tables.decodeRefs},
	} {
		typ, plain, err := blocks.next()
		if err == io.EOF {
			return damagedf(b.key, want.name, "it is missing")
		}
		if err != nil {
			return err
		}
		if typ != want.typ {
			return damagedf(b.key, want.name, "block of type %q", typ)
		}
		if err := want.read(plain); err != nil {
			return unreadable(b.key, want.name, err)
		}
	}
	return nil
}

func (b *Backup) readHeader(plain []byte) error {
	if err := json.Unmarshal(plain, &b.header); err != nil {
		return err
	}
	return b.header.check()
}

// check refuses headers that this program would misread.
func (h *BackupHeader) check() error {
	if h.PageSize < 512 || h.PageSize > 32<<10 || h.PageSize&(h.PageSize-1) != 0 {
		return fmt.Errorf("page size %d", h.PageSize)
	}
	if _, err := ulid.ParseStrict(h.Operation); err != nil {
		return fmt.Errorf("operation %q: %w", h.Operation, err)
	}
	if len(h.Features) > 0 {
		return newerFormat("backup "+string(h.Label), "it needs the features "+strings.Join(h.Features, ", "))
	}
	return nil
}

// unreadable tells what a newer program wrote from what is damaged.
func unreadable(key, what string, err error) error {
	if errors.Is(err, ErrNewerFormat) {
		return err
	}
	return damaged(key, what, err)
}

// checkIdentity proves that the manifest is the one that its key, label and
// object header speak of.
func (b *Backup) checkIdentity(l Label, op ulid.ULID) error {
	if b.header.Label != l || b.header.Stanza != b.stanza.name {
		return damagedf(b.key, "header", "it is the manifest of %s in stanza %s", b.header.Label, b.header.Stanza)
	}
	if b.header.Operation != op.String() {
		return damagedf(b.key, "header", "it belongs to operation %s, the object to %s", b.header.Operation, op)
	}
	return nil
}

// Files gives the files in the order of ComparePaths, and after them the few
// that were read last (pg_control, backup_label, tablespace_map). It reads the
// manifest to its end; an error is the last thing that it yields.
func (b *Backup) Files(ctx context.Context) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		if err := b.files(ctx, yield); err != nil {
			yield(File{}, err)
		}
	}
}

func (b *Backup) files(ctx context.Context, yield func(File, error) bool) error {
	again := &Backup{stanza: b.stanza, key: b.key}
	blocks, body, err := again.openBlocks(ctx)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := again.readHead(blocks); err != nil {
		return err
	}
	if again.header.Operation != b.header.Operation {
		return damagedf(b.key, "", "it was replaced while it was read")
	}
	last, late := "", false
	for {
		typ, plain, err := blocks.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if typ != blockFiles && typ != blockLate || late {
			return damagedf(b.key, "files", "block of type %q", typ)
		}
		late = typ == blockLate
		stop, err := b.decodeFiles(plain, &last, late, yield)
		if err != nil || stop {
			return err
		}
	}
}

// decodeFiles reads a block of entries: front-coded and in order, except in the block of late files.
func (b *Backup) decodeFiles(plain []byte, last *string, late bool, yield func(File, error) bool) (stop bool, err error) {
	r := &wireReader{b: plain}
	prev := ""
	for len(r.b) > 0 {
		f := decodeFile(r, prev, b.header.Owners)
		if r.err == nil && !late && *last != "" && ComparePaths(*last, f.Path) >= 0 {
			r.fail(fmt.Sprintf("path %q comes after %q", f.Path, *last))
		}
		if r.err == nil {
			r.err = b.checkFile(f)
		}
		if r.err != nil {
			return false, damaged(b.key, "files", r.err)
		}
		if !late {
			prev, *last = f.Path, f.Path
		}
		if !yield(f, nil) {
			return true, nil
		}
	}
	return false, nil
}

func (b *Backup) checkFile(f File) error {
	n := int(f.content.number)
	if f.content.kind == contentBundle && (n >= len(b.tables.bundles) || int64(f.content.index)+f.Size > int64(b.tables.bundles[n].raw)) {
		return fmt.Errorf("content of %q is out of range", f.Path)
	}
	if f.content.kind == contentMap && n >= len(b.tables.blocks) {
		return fmt.Errorf("map of %q is out of range", f.Path)
	}
	return nil
}

// packSizes gives the sizes of the packs that the backup uses.
func (b *Backup) packSizes() map[packID]int64 {
	sizes := make(map[packID]int64, len(b.tables.packs))
	for _, p := range b.tables.packs {
		sizes[p.id] = p.size
	}
	return sizes
}
