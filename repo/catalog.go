package repo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/storage"
)

// Catalog is what a stanza holds at one moment: the input of every decision.
type Catalog struct {
	Stanza     string
	Identities []Identity
	Backups    []BackupInfo               // in the order of their labels
	WAL        []WALRange                 // by identity, timeline, segment
	Histories  map[int][]postgres.History // by identity number
	// DamagedHistories are there and cannot be read: who relies on a timeline must
	// look whether it is one of them.
	DamagedHistories []DamagedHistory
	Events           []WALEvent // of all identities
	// Strays are among what was listed of the WAL, which is not what marks say is
	// complete. See StrayWAL too.
	Strays Strays
	// UnreadEvents is why not all events could be read, damaged or refused by the
	// storage; nil if all were. No decision about content rests on them, so they
	// keep nobody from restoring.
	UnreadEvents error
}

// DamagedHistory is a timeline history file that cannot be read.
type DamagedHistory struct {
	Identity int
	Timeline postgres.Timeline
	Err      error // an ErrDamaged
}

// BackupInfo is one backup as the catalogue sees it.
type BackupInfo struct {
	Label      Label
	Header     BackupHeader
	StoredSize int64 // of the manifest, bytes
	Tombed     bool  // expired, not yet collected: not to be used
	Err        error // the manifest cannot be read: shown, never used
}

// WALRange is a run of segments without a gap.
type WALRange struct {
	Identity int
	Timeline postgres.Timeline
	First    uint64 // segment numbers
	Last     uint64
}

// Count is the number of segments of the range.
func (r WALRange) Count() uint64 { return r.Last - r.First + 1 }

// OnTimelines gives, by timeline, the runs of an identity's segments, lowest
// first, and the histories.
func (c *Catalog) OnTimelines(identity int) (map[postgres.Timeline][]WALRange, map[postgres.Timeline]postgres.History) {
	runs, histories := map[postgres.Timeline][]WALRange{}, map[postgres.Timeline]postgres.History{}
	for _, r := range c.WAL {
		if r.Identity == identity {
			runs[r.Timeline] = append(runs[r.Timeline], r)
		}
	}
	for _, of := range runs {
		slices.SortFunc(of, func(x, y WALRange) int { return cmp.Compare(x.First, y.First) })
	}
	for _, h := range c.Histories[identity] {
		histories[h.Timeline] = h
	}
	return runs, histories
}

// catalogReads is how many manifests, and how many history files, are read at once.
const catalogReads = 16

// Catalog reads the stanza's backups, WAL ranges and timeline histories. What
// proves another thing is listed before it: backups before the WAL that was
// there when they were committed, and segments before the history files that are
// archived ahead of them. All else is asked for at once.
func (s *Stanza) Catalog(ctx context.Context) (*Catalog, error) {
	c := &Catalog{Stanza: s.name, Identities: s.identities, Histories: map[int][]postgres.History{}}
	manifests, marks, events, unread, err := s.manifestsAndMarks(ctx)
	if err != nil {
		return nil, err
	}
	c.UnreadEvents = unread
	ranges, histories := make([][]WALRange, len(s.identities)), make([][]postgres.History, len(s.identities))
	damage, strays := make([][]DamagedHistory, len(s.identities)), make([]Strays, len(s.identities))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		c.Backups, err = s.backups(ctx, manifests)
		return err
	})
	group.Go(func() (err error) {
		c.Events, err = s.readEvents(ctx, events)
		if err != nil && ctx.Err() == nil {
			c.UnreadEvents, err = errors.Join(c.UnreadEvents, err), nil
		}
		return err
	})
	group.Go(func() error { return s.repo.checkIdentities(ctx, s.name) })
	group.Go(func() error {
		return readEach(ctx, len(s.identities), catalogReads, func(ctx context.Context, i int) (err error) {
			id := s.identities[i]
			if ranges[i], strays[i], err = s.rangesAndStrays(ctx, id, marks[id.Number].effective()); err == nil {
				histories[i], damage[i], err = s.histories(ctx, id)
			}
			return err
		})
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i, id := range s.identities {
		c.WAL, c.Strays = append(c.WAL, ranges[i]...), c.Strays.With(strays[i])
		c.Histories[id.Number] = histories[i]
		c.DamagedHistories = append(c.DamagedHistories, damage[i]...)
	}
	return c, nil
}

// manifestsAndMarks asks for both at once. Marks are listed before the WAL: one that
// is put meanwhile saves nothing yet. Where they cannot be listed, and the events
// with them, unread says why, and all WAL will be.
func (s *Stanza) manifestsAndMarks(ctx context.Context) (manifests []BackupInfo, marks map[int]markSet, events []string, unread, err error) {
	group, inGroup := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		manifests, err = s.manifests(inGroup)
		return err
	})
	group.Go(func() error {
		marks, events, unread = s.walMarks(inGroup)
		return nil
	})
	if err = group.Wait(); err == nil {
		err = context.Cause(ctx)
	}
	return manifests, marks, events, unread, err
}

// histories reads all history files of an identity, by timeline. One that is
// damaged keeps nobody from the others.
func (s *Stanza) histories(ctx context.Context, id Identity) ([]postgres.History, []DamagedHistory, error) {
	var files []postgres.WALFile
	for f, err := range s.listWAL(ctx, id, historyPrefix(s.name, id.Number), "") {
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	all, broken := make([]postgres.History, len(files)), make([]error, len(files))
	err := readEach(ctx, len(files), catalogReads, func(ctx context.Context, i int) (err error) {
		all[i], err = s.History(ctx, id, files[i].Timeline)
		if errors.Is(err, ErrDamaged) {
			broken[i], err = err, nil
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	var sound []postgres.History
	var damage []DamagedHistory
	for i, f := range files {
		if broken[i] != nil {
			damage = append(damage, DamagedHistory{id.Number, f.Timeline, broken[i]})
			continue
		}
		sound = append(sound, all[i])
	}
	return sound, damage, nil
}

// manifests lists what stands under the labels of the stanza, in their order,
// without reading it: each has Label, StoredSize and Tombed only.
func (s *Stanza) manifests(ctx context.Context) ([]BackupInfo, error) {
	var tombs map[Label]bool
	var out []BackupInfo
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		tombs, err = s.tombs(ctx)
		return err
	})
	group.Go(func() error {
		for obj, err := range s.repo.store.List(ctx, backupsPrefix(s.name), "") {
			if err != nil {
				return fmt.Errorf("list backups of stanza %s: %w", s.name, err)
			}
			if l, err := ParseLabel(strings.TrimPrefix(obj.Key, backupsPrefix(s.name))); err == nil { // else it is not ours
				out = append(out, BackupInfo{Label: l, StoredSize: obj.Size})
			}
		}
		return nil
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Tombed = tombs[out[i].Label]
	}
	return out, nil
}

// backups reads the headers of manifests. One that cannot be read has Err; a
// label occupied by a collector is no backup and is left out.
func (s *Stanza) backups(ctx context.Context, manifests []BackupInfo) ([]BackupInfo, error) {
	there := make([]bool, len(manifests))
	err := readEach(ctx, len(manifests), catalogReads, func(ctx context.Context, i int) (err error) {
		there[i], err = s.readInfo(ctx, &manifests[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []BackupInfo
	for i, info := range manifests {
		if there[i] {
			out = append(out, info)
		}
	}
	return out, nil
}

// readInfo fills in header or damage; false tells that there is no backup.
func (s *Stanza) readInfo(ctx context.Context, info *BackupInfo) (bool, error) {
	info.Header, info.Err = s.readHeader(ctx, info.Label)
	switch {
	case errors.Is(info.Err, ErrRevoked), errors.Is(info.Err, storage.ErrNotExist):
		return false, nil
	case info.Err != nil && !errors.Is(info.Err, ErrDamaged) && !errors.Is(info.Err, ErrNewerFormat):
		return false, info.Err
	}
	return true, nil
}

func (s *Stanza) tombs(ctx context.Context) (map[Label]bool, error) {
	tombs := map[Label]bool{}
	for obj, err := range s.repo.store.List(ctx, tombsPrefix(s.name), "") {
		if err != nil {
			return nil, fmt.Errorf("list tombs of stanza %s: %w", s.name, err)
		}
		tombs[Label(strings.TrimPrefix(obj.Key, tombsPrefix(s.name)))] = true
	}
	return tombs, nil
}

// headerGuess holds most headers: one request.
const headerGuess = 32 << 10

// readHeader reads the first block of a manifest.
func (s *Stanza) readHeader(ctx context.Context, l Label) (BackupHeader, error) {
	b := &Backup{stanza: s, key: manifestKey(s.name, l)}
	head, err := readPrefix(ctx, s.repo.store, b.key, headerGuess)
	if err != nil {
		return b.header, err
	}
	blocks, err := s.repo.manifestBlocks(b.key, bytes.NewReader(head))
	if err != nil {
		return b.header, err
	}
	if len(head) >= objectHeaderSize+blockHeaderSize {
		if n, err := storedLength(b.key, 0, head[objectHeaderSize:]); err == nil && objectHeaderSize+blockHeaderSize+n > len(head) {
			if head, err = readPrefix(ctx, s.repo.store, b.key, int64(objectHeaderSize+blockHeaderSize+n)); err != nil {
				return b.header, err
			}
			blocks.r = bytes.NewReader(head[objectHeaderSize:])
		}
	}
	typ, plain, err := blocks.next()
	if err != nil && !errors.Is(err, ErrDamaged) {
		err = damaged(b.key, "header", err)
	}
	if err != nil {
		return b.header, err
	}
	if typ != blockHeaderJSON {
		return b.header, damagedf(b.key, "header", "block of type %q", typ)
	}
	if err := b.readHeader(plain); err != nil {
		return b.header, unreadable(b.key, "header", err)
	}
	return b.header, b.checkIdentity(l, blocks.op)
}
