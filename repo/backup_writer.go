package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
)

// BackupWriter writes one backup: packs and maps as content comes, the
// manifest at Commit. Its methods are for one goroutine; framing is parallel
// (Framer), sealing and packing are cheap and in order, so that the content of
// a backup lies in the packs in the order in which a restore wants it.
type BackupWriter struct {
	stanza   *Stanza
	identity Identity
	op       ulid.ULID
	label    Label
	typ      BackupType
	parent   *Parent
	pageSize int
	wrapped  []byte
	pinned   Pin
	others   []Pin // of the stanza, when ours was put

	resumption *Resumption

	dataKey sealer
	pack    *packBuilder
	packs   uint32
	uploads *errgroup.Group
	ctx     context.Context // ends with the first failed upload
	outer   context.Context // the caller's
	buffers chan []byte
	target  int // bytes from which on a pack is full

	maps       mapWriter
	entries    *entrySpool
	tables     manifestTables
	packNumber map[packID]int
	bundles    map[frameRef]uint32
	mapBlocks  map[mapBlockRef]uint32
	totals     Totals
	sent       bool // the manifest was sent: the backup may exist
}

// Totals are what a writer has counted so far.
type Totals struct {
	Files       int64
	Bytes       int64 // plain bytes of files
	ReusedBytes int64 // of them, found in the repository
	// ResumedBytes are those of ReusedBytes that an interrupted backup had stored.
	ResumedBytes int64
	StoredBytes  int64 // put into the repository: packs and maps
}

// BeginOptions say how a backup is written.
type BeginOptions struct {
	Type     BackupType
	PageSize int // bytes, from pg_control
	// Uploads is how many packs may be on their way at once; each costs PackSize.
	Uploads int
	// PackSize is from how many bytes on a pack is closed; 0 is 32 MiB. A
	// smaller one is for simulations of a small cluster that is to age like a large one.
	PackSize int
	// AnyOrder lets paths come in any order, as a server sends them: the entries
	// are sorted at the end, and the parent's are kept in a temporary file.
	AnyOrder bool
}

// BeginBackup chooses a parent, names the new backup and pins both. The parent
// is the newest sound backup of the same identity; that of a differential backup
// the newest full one. A differential or incremental backup for which there is
// none becomes a full one: see Type. What interrupted backups have stored is used,
// too: see Resumption. The writer must end in Commit or Abort.
func (s *Stanza) BeginBackup(ctx context.Context, id Identity, o BeginOptions) (*BackupWriter, error) {
	r := s.repo
	if err := r.config.checkWrite(r.location()); err != nil {
		return nil, err
	}
	op, err := r.newOperation()
	if err != nil {
		return nil, err
	}
	w := &BackupWriter{stanza: s, identity: id, op: op, typ: o.Type, pageSize: o.PageSize, target: o.PackSize,
		packNumber: map[packID]int{}, bundles: map[frameRef]uint32{}, mapBlocks: map[mapBlockRef]uint32{}}
	if w.target <= 0 {
		w.target = packTarget
	}
	if err := w.makeDataKey(); err != nil {
		return nil, err
	}
	parent, err := w.pin(ctx)
	if err != nil {
		return nil, err
	}
	if !o.AnyOrder { // what is left is looked through in the order of the walk
		if err := w.resume(ctx); err != nil {
			return nil, err
		}
	}
	w.outer = ctx
	w.uploads, w.ctx = errgroup.WithContext(ctx)
	w.buffers = make(chan []byte, max(o.Uploads, 1)+1)
	for range cap(w.buffers) {
		w.buffers <- nil // allocated when first used
	}
	w.maps = mapWriter{ctx: w.ctx, repo: r, op: op, tables: &w.tables}
	w.entries = newEntrySpool()
	if o.AnyOrder {
		w.entries.sorter = newEntrySorter(&w.entries.ownerTable)
	}
	if parent != nil {
		w.parent = newParent(w.ctx, parent, o.AnyOrder)
		w.parent.wear(w.typ)
	}
	w.resumption.start(w.ctx)
	return w, nil
}

func (w *BackupWriter) makeDataKey() error {
	keys := w.stanza.repo.keys
	if keys == nil {
		return nil
	}
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return fmt.Errorf("make a data key: %w", err)
	}
	var err error
	if w.wrapped, err = keys.wrapDataKey(&key); err != nil {
		return fmt.Errorf("wrap the data key: %w", err)
	}
	w.dataKey, err = newSealer(&key)
	return err
}

// pin names the backup and pins its parent, then looks again whether the
// parent is still wanted: a collector tombs first and lists pins afterwards,
// so either it sees our pin or we see its tomb. A parent that turns out to be
// no use is passed over for an older one.
func (w *BackupWriter) pin(ctx context.Context) (*Backup, error) {
	s := w.stanza
	manifests, err := s.manifestsBefore(ctx)
	if err != nil {
		return nil, err
	}
	var taken []Label // by collectors too
	for _, m := range manifests {
		taken = append(taken, m.Label)
	}
	wanted := w.typ
	for {
		var parent Label
		if manifests, err = s.soundUpTo(ctx, manifests, w.identity, wanted); err != nil {
			return nil, err
		}
		if n := len(manifests); n > 0 {
			parent = manifests[n-1].Label
		} else {
			w.typ = Full
		}
		if err := w.pinWith(ctx, parent, taken); err != nil || parent == "" {
			return nil, err
		}
		b, err := s.openParent(ctx, parent)
		if err != nil {
			return nil, fmt.Errorf("open parent %s: %w", parent, err)
		}
		if b != nil {
			return b, nil
		}
		manifests, taken = manifests[:len(manifests)-1], append(taken, w.label)
	}
}

// pinWith puts the pin that names the backup and its parent.
func (w *BackupWriter) pinWith(ctx context.Context, parent Label, taken []Label) error {
	s := w.stanza
	now := s.repo.o.Clock().UTC()
	pin := Pin{Operation: w.op.String(), Kind: pinBackup, Stanza: s.name, Started: now, WrappedKey: w.wrapped}
	pin.Label = newLabel(now, w.typ, taken)
	if parent != "" {
		pin.Parents = []Label{parent}
	}
	var err error
	if w.others, err = s.claimLabel(ctx, &pin, w.op, w.typ, taken); err != nil {
		return err
	}
	w.label, w.pinned = pin.Label, pin
	return nil
}

// manifestsBefore lists what is there before a backup begins, and makes sure
// that no identity is lost: the backup, and the WAL that archive-push stores
// meanwhile, would go under an earlier one of the same cluster.
func (s *Stanza) manifestsBefore(ctx context.Context) (manifests []BackupInfo, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.repo.checkIdentities(ctx, s.name) })
	group.Go(func() (err error) {
		manifests, err = s.manifests(ctx)
		return err
	})
	err = group.Wait()
	return manifests, err
}

// openParent opens a pinned backup; nil when it was expired meanwhile or
// cannot be read: then nothing is shared and everything is stored anew.
func (s *Stanza) openParent(ctx context.Context, l Label) (*Backup, error) {
	_, err := s.repo.store.Stat(ctx, tombKey(s.name, l))
	if err == nil {
		return nil, nil
	}
	if !errors.Is(err, storage.ErrNotExist) {
		return nil, fmt.Errorf("look for a tomb: %w", err)
	}
	b, err := s.OpenBackup(ctx, l)
	if errors.Is(err, ErrNoBackup) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrRevoked) {
		return nil, nil
	}
	return b, err
}

// soundUpTo reads headers from the newest backwards until one will do as the
// parent of a backup of a type, and gives the list up to it; none when there is none.
func (s *Stanza) soundUpTo(ctx context.Context, manifests []BackupInfo, id Identity, typ BackupType) ([]BackupInfo, error) {
	for i := len(manifests) - 1; i >= 0; i-- {
		m := manifests[i]
		if m.Tombed {
			continue
		}
		there, err := s.readInfo(ctx, &m)
		if err != nil {
			return nil, err
		}
		if there && m.Err == nil && m.Header.Identity.same(id) && (typ != Differential || m.Header.Type == Full) {
			return manifests[:i+1], nil
		}
	}
	return nil, nil
}

// Label is the name that the backup will have.
func (w *BackupWriter) Label() Label { return w.label }

// Type is what the backup is: full, too, where another was asked for that has no parent.
func (w *BackupWriter) Type() BackupType { return w.typ }

// Parent is the backup whose content is shared; nil when there is none.
func (w *BackupWriter) Parent() *Parent { return w.parent }

// Resumption is what interrupted backups have left, for Framers.Resume; nil when there is nothing.
func (w *BackupWriter) Resumption() *Resumption {
	if w == nil {
		return nil
	}
	return w.resumption
}

// Totals are the counts so far.
func (w *BackupWriter) Totals() Totals {
	t := w.totals
	t.StoredBytes += w.maps.stored
	return t
}

// addFrame puts a frame into the current pack and hands full packs to the uploads.
func (w *BackupWriter) addFrame(f frame) (frameRef, error) {
	if w.pack == nil {
		if err := w.openPack(); err != nil {
			return frameRef{}, err
		}
	}
	ref := w.pack.add(f)
	w.use(ref)
	if w.pack.full(w.target) {
		return ref, w.closePack()
	}
	return ref, nil
}

func (w *BackupWriter) openPack() error {
	id := packID{op: w.op, number: w.packs}
	meta, err := w.stanza.repo.keys.metaSealer(w.op, id.key())
	if err != nil {
		return err
	}
	select {
	case buf := <-w.buffers:
		if buf == nil {
			buf = make([]byte, 0, w.target+maxStoredFrame+(1<<20))
		}
		w.pack = newPackBuilder(id, w.pageSize, w.dataKey, meta, w.wrapped, buf)
	case <-w.ctx.Done():
		return context.Cause(w.ctx) // the first failed upload, or why the caller gave up
	}
	w.packs++
	return nil
}

func (w *BackupWriter) closePack() error {
	if w.pack == nil {
		return nil
	}
	p := w.pack
	w.pack = nil
	data, err := p.finish()
	if err != nil {
		return fmt.Errorf("close pack: %w", err)
	}
	w.tables.packs[w.packNumber[p.id]].size = int64(len(data)) // a pack that was opened has a frame, which is in use
	w.totals.StoredBytes += int64(len(data))
	w.uploads.Go(func() error {
		err := w.stanza.repo.store.Put(w.ctx, p.id.key(), storage.Bytes(data), storage.PutOptions{IfAbsent: true})
		w.buffers <- data[:0]
		if err != nil {
			return fmt.Errorf("store pack: %w", err)
		}
		return nil
	})
	return nil
}

// use counts a frame into the table of packs.
func (w *BackupWriter) use(ref frameRef) {
	n, ok := w.packNumber[ref.pack]
	if !ok {
		n = len(w.tables.packs)
		w.packNumber[ref.pack] = n
		w.tables.packs = append(w.tables.packs, packUse{id: ref.pack})
	}
	w.tables.packs[n].used += int64(ref.stored)
}

// Commit writes what is left, waits until all of it is durable, and puts the
// manifest: from then on the backup exists. It fills in the fields of h that
// the writer knows. The pin is dropped afterwards; when that fails the backup
// exists and the error is an ErrPinLeft.
func (w *BackupWriter) Commit(h BackupHeader) (BackupHeader, error) {
	defer w.close()
	if err := w.closeContent(); err != nil {
		return h, err
	}
	if err := w.uploads.Wait(); err != nil { // the law: no manifest before all that it names is durable
		return h, err
	}
	h, err := w.finishHeader(h)
	if err != nil {
		return h, err
	}
	if err := w.proveShared(w.outer); err != nil {
		return h, err
	}
	w.sent = true
	if err := w.putManifest(w.outer, h); err != nil {
		return h, err
	}
	if err := w.stanza.repo.store.Delete(w.outer, pinKey(w.op)); err != nil {
		return h, fmt.Errorf("backup %s: %w: %s: %w", h.Label, ErrPinLeft, pinKey(w.op), err)
	}
	return h, nil
}

// closeContent hands the last pack to the uploads and puts the last maps at the same time.
func (w *BackupWriter) closeContent() error {
	if err := w.closePack(); err != nil {
		return err
	}
	if err := w.maps.close(); err != nil {
		cause := context.Cause(w.ctx) // the upload that failed
		if cause != nil && errors.Is(err, cause) {
			return cause // it has ended the maps' too, and would be told twice
		}
		return errors.Join(cause, err)
	}
	return nil
}

func (w *BackupWriter) close() {
	if w.parent != nil {
		w.parent.stop()
	}
	w.resumption.stop()
	w.entries.close()
}
