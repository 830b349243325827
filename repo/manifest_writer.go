package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
)

// finishHeader fills in what the writer knows.
func (w *BackupWriter) finishHeader(h BackupHeader) (BackupHeader, error) {
	h.Label, h.Type, h.Operation, h.Stanza, h.Identity = w.label, w.typ, w.op.String(), w.stanza.name, w.identity
	h.PageSize, h.DatabaseSize, h.Files = w.pageSize, w.totals.Bytes, w.totals.Files
	h.AddedSize = w.Totals().StoredBytes
	h.Owners = w.entries.owners
	var inherited map[packID]int64
	if w.parent != nil {
		h.Parent, inherited = w.parent.Label(), w.parent.backup.packSizes()
	}
	for i, p := range w.tables.packs {
		h.ReferencedSize += p.used
		if p.id.op == w.op {
			continue
		}
		size, ok := inherited[p.id]
		if !ok {
			size, ok = w.resumption.size(p.id)
		}
		if !ok {
			return h, fmt.Errorf("pack %s is used but unknown", p.id.key())
		}
		w.tables.packs[i].size = size
	}
	err := w.collectKeys(&h) // not in the return: which of the two comes first there is not laid down
	return h, err
}

// collectKeys gives the header the wrapped data key of every operation whose frames are used.
func (w *BackupWriter) collectKeys(h *BackupHeader) error {
	if w.stanza.repo.keys == nil {
		return nil
	}
	h.WrappedKeys = map[string][]byte{}
	for _, p := range w.tables.packs {
		op := p.id.op.String()
		if h.WrappedKeys[op] != nil {
			continue
		}
		if h.WrappedKeys[op] = w.keyOf(p.id.op); h.WrappedKeys[op] == nil {
			return fmt.Errorf("there is no key for operation %s", op)
		}
	}
	return nil
}

// keyOf gives the wrapped data key of an operation whose frames are used.
func (w *BackupWriter) keyOf(op ulid.ULID) []byte {
	if op == w.op {
		return w.wrapped
	}
	if l := w.resumption.part(op); l != nil {
		return l.wrapped
	}
	if w.parent == nil {
		return nil
	}
	return w.parent.backup.header.WrappedKeys[op.String()]
}

// putManifest assembles the manifest and puts it if the label is free.
func (w *BackupWriter) putManifest(ctx context.Context, h BackupHeader) error {
	key := manifestKey(w.stanza.name, w.label)
	spool := storage.NewSpool(entrySpoolMemory, "")
	defer spool.Close()
	if err := w.writeManifest(spool, key, h); err != nil {
		return fmt.Errorf("write manifest %s: %w", key, err)
	}
	err := w.stanza.repo.store.Put(ctx, key, spool.Source(), storage.PutOptions{IfAbsent: true})
	if errors.Is(err, storage.ErrExist) {
		return w.labelTaken(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("store manifest: %w", err)
	}
	return nil
}

// labelTaken explains an occupied manifest key: a collector's stub, another
// backup, or this one, put by an attempt whose answer was lost.
func (w *BackupWriter) labelTaken(ctx context.Context, key string) error {
	b, err := w.stanza.OpenBackup(ctx, w.label)
	if err == nil && b.header.Operation == w.op.String() {
		return nil
	}
	if errors.Is(err, ErrRevoked) {
		return hint.Wrap(fmt.Errorf("backup %s: %w", w.label, ErrRevoked), "run the backup again; what it stored will be collected.")
	}
	return hint.Wrap(fmt.Errorf("%s: %w", key, ErrLabelTaken), "run the backup again.")
}

func (w *BackupWriter) writeManifest(out io.Writer, key string, h BackupHeader) error {
	repo := w.stanza.repo
	s, err := repo.keys.metaSealer(w.op, key)
	if err != nil {
		return err
	}
	if _, err := out.Write(objectHeader(manifestMagic, w.op, repo.keys != nil)); err != nil {
		return err
	}
	blocks, err := newBlockWriter(out, s, key)
	if err != nil {
		return err
	}
	header, err := json.Marshal(h)
	if err != nil {
		return err
	}
	for _, b := range []struct {
		typ   byte
		plain []byte
	}{{blockHeaderJSON, header}, {blockPacks, w.tables.encodePacks()}, {blockRefs, w.tables.encodeRefs()}} {
		if _, err := blocks.write(b.typ, b.plain); err != nil {
			return err
		}
	}
	if err := w.entries.blocks(func(plain []byte) error {
		_, err := blocks.write(blockFiles, plain)
		return err
	}); err != nil {
		return err
	}
	if len(w.entries.late.b) > 0 {
		if _, err := blocks.write(blockLate, w.entries.late.b); err != nil {
			return err
		}
	}
	return blocks.end()
}
