package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/received"
	"github.com/pgbak/pgbak/repo"
)

// Received WAL. What archive-receive keeps in its directory may be nowhere else:
// complete segments that have not reached the repository, and the one under way.
// The plan is made as if they were archived, so that any target may lie in them,
// and the restore puts them into pg_wal: there PostgreSQL looks for a file when
// restore_command has said that it is not in the archive.

// receivedWAL is what a directory holds that the archive does not.
type receivedWAL struct {
	dir       *received.Directory
	id        received.Identity
	segments  map[postgres.WALFile]receivedFile // by the whole segment
	histories map[postgres.Timeline][]byte
	doubts    []string // warnings for the plan
}

// receivedFile is where a segment is taken from.
type receivedFile struct {
	postgres.WALFile // as it is called in the directory, perhaps a partial one
	// use is how many of its bytes are used.
	use int64
}

// ReceivedPlan is the received WAL that a restore uses. All of it goes into pg_wal.
type ReceivedPlan struct {
	Directory string `json:"directory"`
	First     string `json:"first,omitempty"`
	Last      string `json:"last,omitempty"` // its name ends in .partial if it is not a whole segment
	Files     int    `json:"files"`          // histories included
	// End is where the WAL ends, on the way to the target.
	End postgres.LSN `json:"end,omitzero"`

	files []plannedFile
}

// plannedFile is a file for pg_wal.
type plannedFile struct {
	name postgres.WALFile // in pg_wal
	from receivedFile
}

// readReceived looks at what the directory holds beyond the catalogue. It refuses a
// directory of another cluster, and one that contradicts the archive.
func readReceived(ctx context.Context, dir *received.Directory, s *repo.Stanza, c *repo.Catalog, identity repo.Identity) (*receivedWAL, error) {
	id, err := dir.Identity()
	if err != nil {
		return nil, unusable("name the directory of archive-receive.", "%s: %w", dir.Path(), err)
	}
	if id.SystemID != identity.SystemID || id.Major != identity.Major || id.SegmentSize != identity.SegmentSize {
		return nil, unusable("name the directory in which this cluster's WAL was received, or leave --received out.",
			"%s holds WAL of another cluster: it is of %s, the backup of %s", dir.Path(), id, identity)
	}
	w := &receivedWAL{dir: dir, id: id, segments: map[postgres.WALFile]receivedFile{}, histories: map[postgres.Timeline][]byte{}}
	files, err := dir.Files(id.SegmentSize)
	if err != nil {
		return nil, err
	}
	archive := newWALArchive(c, identity)
	twice := map[postgres.Timeline]postgres.WALFile{} // the last one of each timeline stands for those before it
	for _, f := range files {
		if f.Kind == postgres.WALHistory {
			if err := w.addHistory(ctx, archive, s, identity, f); err != nil {
				return nil, err
			}
			continue
		}
		if _, there := archive.runEnd(f.Timeline, f.Segment); there {
			twice[f.Timeline] = f
			continue
		}
		if err := w.addSegment(f); err != nil {
			return nil, err
		}
	}
	for _, f := range twice {
		if err := w.judgeTwice(ctx, s, identity, f); err != nil {
			return nil, err
		}
	}
	return w, w.addBegun(archive)
}

// unusable refuses a directory of received WAL. Nothing was written.
func unusable(advice, format string, args ...any) error {
	return hint.Wrap(fmt.Errorf("%w: the received WAL cannot be used: %w", ErrUnreachable, fmt.Errorf(format, args...)), "%s", advice)
}

// addHistory takes a history that is not archived, and compares one that is.
func (w *receivedWAL) addHistory(ctx context.Context, archive *walArchive, s *repo.Stanza, identity repo.Identity, f postgres.WALFile) error {
	name := f.Name(w.id.SegmentSize)
	mine, err := w.dir.History(f.Timeline)
	if err != nil {
		return unusable("remove the damaged file if the archive has it.", "%s: %w", w.dir.Path(name), err)
	}
	there, ok := archive.histories[f.Timeline]
	if !ok {
		content, err := received.ReadSmall(w.dir.Path(name))
		if err != nil {
			return fmt.Errorf("read received WAL: %w", err)
		}
		w.histories[f.Timeline] = content
		return nil
	}
	same := slices.EqualFunc(mine.Entries, there.Entries, func(x, y postgres.HistoryEntry) bool {
		return x.Timeline == y.Timeline && x.Switch == y.Switch
	})
	if !same {
		return unusable("two servers have begun the same timeline: 'pgbak info' tells what is archived of it; leave --received out to restore that.",
			"%s says another thing than the one in the archive", w.dir.Path(name))
	}
	return nil
}

// addSegment takes a segment with valid WAL in it. A damaged one ends the row.
func (w *receivedWAL) addSegment(f postgres.WALFile) error {
	whole := f
	whole.Kind = postgres.WALSegment
	if _, there := w.segments[whole]; there && f.Kind == postgres.WALPartial {
		return nil
	}
	head := make([]byte, postgres.WALHeaderSize)
	file, err := w.open(receivedFile{WALFile: f})
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := io.ReadFull(file, head); err != nil {
		if f.Kind == postgres.WALPartial && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
			return nil // hardly begun: no record can be in it
		}
		return fmt.Errorf("read received WAL: %w", err)
	}
	if err := received.CheckHead(head, whole, w.id); err != nil {
		if f.Kind == postgres.WALPartial {
			return nil // the remains of a crash: nothing of it was durable
		}
		return unusable("the file is damaged: leave --received out to restore what is archived.", "%s: %w", file.Name(), err)
	}
	w.segments[whole] = receivedFile{f, w.id.SegmentSize}
	return nil
}

// added is the catalogue with the received WAL in it.
func (w *receivedWAL) added(c *repo.Catalog, identity repo.Identity) *repo.Catalog {
	out := *c
	out.WAL = w.addedTo(c.WAL, identity)
	out.Histories = map[int][]postgres.History{}
	for n, hs := range c.Histories {
		out.Histories[n] = slices.Clone(hs)
	}
	for tli, content := range w.histories {
		if h, err := postgres.ParseHistory(tli, content); err == nil { // Directory.History has read it
			out.Histories[identity.Number] = append(out.Histories[identity.Number], h)
		}
	}
	return &out
}

// addedTo gives archived ranges with the received segments among them; nil adds none.
func (w *receivedWAL) addedTo(ranges []repo.WALRange, identity repo.Identity) []repo.WALRange {
	if w == nil {
		return ranges
	}
	ranges = slices.Clone(ranges)
	for f := range w.segments {
		ranges = append(ranges, repo.WALRange{Identity: identity.Number, Timeline: f.Timeline, First: f.Segment, Last: f.Segment})
	}
	return joinRanges(ranges)
}

// joinRanges sorts runs and makes one of those that follow each other.
func joinRanges(ranges []repo.WALRange) []repo.WALRange {
	slices.SortFunc(ranges, func(a, b repo.WALRange) int {
		return cmp.Or(cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.First, b.First))
	})
	var out []repo.WALRange
	for _, r := range ranges {
		if n := len(out) - 1; n >= 0 && out[n].Identity == r.Identity && out[n].Timeline == r.Timeline && out[n].Last+1 == r.First {
			out[n].Last = r.Last
			continue
		}
		out = append(out, r)
	}
	return out
}

// read gives a segment's bytes, with zeros where nothing was received; false if
// it is not one of the received ones.
func (w *receivedWAL) read(f postgres.WALFile, into []byte) (bool, error) {
	if w == nil {
		return false, nil
	}
	file, ok := w.segments[f]
	if !ok {
		return false, nil
	}
	in, err := w.open(file)
	if err != nil {
		return true, err
	}
	defer in.Close()
	n, err := io.ReadFull(in, into[:file.use])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	clear(into[n:])
	if err == nil && int64(n) < file.use && file.Kind != postgres.WALPartial {
		err = fmt.Errorf("%s has %d bytes", in.Name(), n)
	}
	return true, err
}

// planReceived says which received files the recovery needs, and proves that the
// WAL goes on without a break to the end of them.
func (p *Plan) planReceived(ctx context.Context, w *receivedWAL, q *request, d decision) error {
	if w == nil {
		return nil
	}
	plan := &ReceivedPlan{Directory: w.dir.Path()}
	p.Received = plan
	p.Warnings = append(p.Warnings, w.doubts...)
	for tli := range w.histories {
		history := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}
		plan.files = append(plan.files, plannedFile{history, receivedFile{WALFile: history}})
	}
	if err := p.warnOfBranch(w, d.reach.path.history); err != nil {
		return err
	}
	slices.SortFunc(plan.files, func(a, b plannedFile) int { return cmp.Compare(a.name.Timeline, b.name.Timeline) })
	first, last, size := uint64(0), uint64(0), w.id.SegmentSize
	for n := d.reach.First; n <= d.needed; n++ {
		f, ok := w.segments[d.reach.path.file(n)]
		if !ok {
			continue
		}
		if plan.First == "" {
			plan.First, first = f.Name(size), n
		}
		plan.Last, last = f.Name(size), n
		plan.files = append(plan.files, plannedFile{d.reach.path.file(n), f})
	}
	plan.Files = len(plan.files)
	if plan.First == "" {
		p.Notes = append(p.Notes, fmt.Sprintf("the archive has all the WAL that is needed; nothing is taken from %s", plan.Directory))
		return nil
	}
	end, err := q.wal.events(ctx, d.reach, max(d.reach.First, first-1), last, func(postgres.WALEvent) error { return nil })
	if err != nil {
		return fmt.Errorf("read received WAL: %w", err)
	}
	plan.End = min(end.end, d.reach.path.start(last+1)) // the last record may go on in a segment that is not needed
	if last == d.reach.Next-1 {
		p.Reachable.To.LSN = end.end
	}
	if end.end < d.reach.path.start(last) {
		p.Warnings = append(p.Warnings, fmt.Sprintf("the valid WAL ends at %s, though %s was received too: recovery will not get further", end.end, plan.Last))
	}
	return nil
}

// warnOfBranch warns when the end of what was received is not on the way to the
// target's timeline: after a failover to a standby that had not got it, say.
func (p *Plan) warnOfBranch(w *receivedWAL, h postgres.History) error {
	at, ok, err := w.dir.Position(w.id)
	if err != nil || !ok || at.Timeline == h.Timeline || h.Contains(at.Timeline, at.End) {
		return err
	}
	p.Warnings = append(p.Warnings, fmt.Sprintf("what was received goes to %s on timeline %d, which is not on the way to timeline %d: what was done there is not restored; --target-timeline %d follows it",
		at.End, at.Timeline, h.Timeline, at.Timeline))
	return nil
}

// String is what the plan says of it.
func (r *ReceivedPlan) String() string {
	return fmt.Sprintf("%s to %s from %s, up to %s, into pg_wal", r.First, r.Last, r.Directory, r.End)
}

// writeReceived puts received WAL into pg_wal, each file whole: the end of a
// partial one is filled up with zeros, where recovery finds the end of the WAL.
func (r *run) writeReceived(ctx context.Context) error {
	if r.plan.Received == nil {
		return nil
	}
	for _, f := range r.plan.Received.files {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := r.writeReceivedFile(f); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) writeReceivedFile(f plannedFile) error {
	size := r.plan.Backup.Identity.SegmentSize
	in, err := r.o.Received.OpenFile(f.from.WALFile, size)
	if err != nil {
		return fmt.Errorf("read received WAL: %w", err)
	}
	defer in.Close()
	content := io.Reader(in)
	if f.name.Kind == postgres.WALSegment {
		content = io.LimitReader(io.MultiReader(io.LimitReader(in, f.from.use), zeros{}), size)
	}
	name := path.Join("pg_wal", f.name.Name(size))
	at, rel := r.target(name)
	out, err := at.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("the backup holds %s itself", name)
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", name, err)
	}
	return r.fillOwn(out, at, rel, name, content)
}

// zeros is an endless file of them.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
