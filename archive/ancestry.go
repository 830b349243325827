package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
)

// A standby that follows a promotion gets the history file of the new timeline
// by streaming, and PostgreSQL marks it as archived there: if the server that
// began that timeline dies before it archived the file, nobody else ever will.
// Recovery to the latest timeline probes one history file after the other, so
// that one which is missing in the middle hides all later timelines. Hence who
// pushes something of a timeline makes sure that its history and those of all
// its ancestors are in the repository.

// ancestry is what a Pusher has found complete, so that a run which pushes many
// segments asks once for each timeline and repository.
type ancestry struct {
	mu       sync.Mutex
	complete map[ancestryOf]bool
}

type ancestryOf struct {
	target   string // name of the repository
	systemID uint64
	identity int
	timeline postgres.Timeline
}

func (a *ancestry) isComplete(of ancestryOf) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.complete[of]
}

func (a *ancestry) setComplete(of ancestryOf) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.complete == nil {
		a.complete = map[ancestryOf]bool{}
	}
	a.complete[of] = true
}

// descent is a timeline history on its way into a repository.
type descent struct {
	stanza  *repo.Stanza
	target  string // name of the repository
	dir     string // of the server's WAL, where its ancestors' histories are
	history postgres.History
	data    []byte // the file of history

	notes    []string // sentences for those who look for what was done
	warnings []string // sentences for the server's log
}

// ancestryOfSegment makes sure that the timeline of a segment in dir has its history in
// the repository. There it proves that those of its ancestors were looked after,
// since each is put behind them; that costs one request for each timeline,
// repository and Pusher. Where the server has not yet archived the history itself,
// unproven, one that is there is compared with it.
func (p *Pusher) ancestryOfSegment(ctx context.Context, s *repo.Stanza, target string, f postgres.WALFile, dir string, unproven bool) (*descent, error) {
	id := s.Current()
	of := ancestryOf{target, id.SystemID, id.Number, f.Timeline}
	if f.Timeline == 1 || p.ancestry.isComplete(of) {
		return &descent{}, nil
	}
	file := postgres.WALFile{Kind: postgres.WALHistory, Timeline: f.Timeline}
	if !unproven {
		there, err := s.HasWAL(ctx, id, file)
		if err != nil {
			return &descent{}, err
		}
		if there {
			p.ancestry.setComplete(of)
			return &descent{}, nil
		}
	}
	d := &descent{stanza: s, target: target, dir: dir}
	var err error
	if d.data, d.history, err = d.read(f.Timeline); err != nil {
		d.warn(f.Timeline, f.Timeline, err)
		return d, nil
	}
	if err := d.putAncestors(ctx); err != nil {
		return d, err
	}
	if err := d.put(ctx, f.Timeline, d.data); err != nil {
		return d, err
	}
	if !unproven {
		d.notes = append(d.notes, fmt.Sprintf("%s was not in repository %s although its timeline has segments; it is now", file.Name(id.SegmentSize), target))
	}
	p.ancestry.setComplete(of)
	return d, nil
}

// read gives the history of a timeline as it lies in the server's directory.
func (d *descent) read(tli postgres.Timeline) ([]byte, postgres.History, error) {
	name := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(d.stanza.Current().SegmentSize)
	file, err := look(filepath.Join(d.dir, name))
	if err != nil {
		return nil, postgres.History{}, err
	}
	defer file.Close()
	if err := file.checkLimit(maxHistorySize); err != nil {
		return nil, postgres.History{}, err
	}
	content := repo.NewWALContent(file)
	defer content.Close()
	data, err := content.Head(maxHistorySize)
	if err != nil {
		return nil, postgres.History{}, fmt.Errorf("read WAL file %s: %w", file.path, err)
	}
	h, err := postgres.ParseHistory(tli, data)
	return data, h, err
}

// putAncestors makes sure that the history of each ancestor is in the
// repository, oldest first: a history that is there shows that those before it
// were looked after. What is there must be the beginning of this one: if it is
// not, another server has begun that timeline, and the error, which wraps
// repo.ErrWALConflict, names both sides. One that is nowhere is a warning,
// because WAL must go on.
func (d *descent) putAncestors(ctx context.Context) error {
	// The first timeline has no history, and needs none.
	entries := d.history.Entries
	if len(entries) < 2 {
		return nil
	}
	archived := make([]error, len(entries))
	group, all := errgroup.WithContext(ctx)
	group.SetLimit(ancestorReads)
	for i := range entries[1:] {
		group.Go(func() (err error) {
			archived[i+1], err = d.compare(all, i+1)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i := range entries[1:] {
		switch err := archived[i+1]; {
		case errors.Is(err, storage.ErrNotExist):
			if err := d.putAncestor(ctx, i+1); err != nil {
				return err
			}
		case err != nil:
			d.warn(entries[i+1].Timeline, d.history.Timeline, err)
		}
	}
	return nil
}

// ancestorReads is how many histories are read at once.
const ancestorReads = 16

// compare compares the archived history of the i-th ancestor with this one.
// state is nil if both agree, storage.ErrNotExist if there is none, or says how
// it is damaged.
func (d *descent) compare(ctx context.Context, i int) (state, err error) {
	ancestor := d.history.Entries[i].Timeline
	h, err := d.stanza.History(ctx, d.stanza.Current(), ancestor)
	switch {
	case errors.Is(err, storage.ErrNotExist), errors.Is(err, repo.ErrDamaged):
		return err, nil
	case err != nil:
		return nil, err
	case !samePath(h.Entries, d.history.Entries[:i]):
		return nil, d.conflict(ctx, i, h)
	}
	return nil, nil
}

// conflict is the error for an ancestor whose archived history is h. The file of
// the i-th ancestor is put over it for the sake of the answer, which names both.
func (d *descent) conflict(ctx context.Context, i int, h postgres.History) error {
	ancestor := d.history.Entries[i].Timeline
	err := repo.ErrWALConflict
	data, _, readErr := d.read(ancestor)
	if made, ok := beginning(d.data, i); readErr != nil && ok {
		data, readErr = made, nil
	}
	if readErr == nil {
		if putErr := d.put(ctx, ancestor, data); putErr != nil {
			err = putErr
		}
	}
	return fmt.Errorf("timeline %d of this server is %s, what is archived as timeline %d is %s: %w", d.history.Timeline,
		pathText(d.history.Timeline, d.history.Entries), ancestor, pathText(ancestor, h.Entries), err)
}

// samePath compares what histories say of the way; the reasons are for people.
func samePath(a, b []postgres.HistoryEntry) bool {
	return slices.EqualFunc(a, b, func(a, b postgres.HistoryEntry) bool {
		return a.Timeline == b.Timeline && a.Switch == b.Switch
	})
}

// putAncestor stores the history of the i-th ancestor, as it lies in the server's
// directory or else as the beginning of this one.
func (d *descent) putAncestor(ctx context.Context, i int) error {
	ancestor := d.history.Entries[i].Timeline
	name := postgres.WALFile{Kind: postgres.WALHistory, Timeline: ancestor}.Name(d.stanza.Current().SegmentSize)
	data, h, err := d.read(ancestor)
	if err == nil && !samePath(h.Entries, d.history.Entries[:i]) {
		err = fmt.Errorf("%s is not what the history of timeline %d begins with: it says %s",
			filepath.Join(d.dir, name), d.history.Timeline, pathText(ancestor, h.Entries))
	}
	if err == nil {
		d.notes = append(d.notes, fmt.Sprintf("%s was not in repository %s; it was taken from %s", name, d.target, d.dir))
		return d.put(ctx, ancestor, data)
	}
	made, ok := beginning(d.data, i)
	if h, parseErr := postgres.ParseHistory(ancestor, made); !ok || parseErr != nil || !samePath(h.Entries, d.history.Entries[:i]) {
		d.warn(ancestor, d.history.Timeline, err)
		return nil
	}
	d.notes = append(d.notes, fmt.Sprintf("%s was neither in repository %s nor in %s; it is the beginning of the history of timeline %d, and was taken from there",
		name, d.target, d.dir, d.history.Timeline))
	return d.put(ctx, ancestor, made)
}

func (d *descent) put(ctx context.Context, tli postgres.Timeline, data []byte) error {
	content := repo.NewWALContent(storage.Bytes(data))
	defer content.Close()
	_, err := d.stanza.PutWAL(ctx, d.stanza.Current(), postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}, content)
	return err
}

// warn tells that the history of tli, which of descends from, is not to be had.
func (d *descent) warn(tli, of postgres.Timeline, cause error) {
	name := postgres.WALFile{Kind: postgres.WALHistory, Timeline: tli}.Name(d.stanza.Current().SegmentSize)
	err := fmt.Errorf("the history of timeline %d, on the way to timeline %d, is not in repository %s: %w", tli, of, d.target, cause)
	err = hint.Wrap(err, "recovery to the latest timeline may stop before it: run archive-push with %s of another server of this cluster; of a damaged one move the object away first.", name)
	d.warnings = append(d.warnings, err.Error()+"; hint: "+hint.Of(err))
}

// beginning gives what a server has copied from its i-th ancestor's history into
// data: writeTimeLineHistory copies the parent's file as it is, and appends a
// line feed and a line of its own. Whoever wrote data otherwise has not copied.
func beginning(data []byte, i int) ([]byte, bool) {
	at := 0
	for line := range bytes.Lines(data) {
		if text := bytes.TrimSpace(line); len(text) > 0 && text[0] != '#' {
			if i == 0 {
				break
			}
			i--
		}
		at += len(line)
	}
	return data[:max(0, at-1)], bytes.HasSuffix(data[:at], []byte("\n\n"))
}

// pathText says a way by timelines: "1 to 0/3000000, 2".
func pathText(tli postgres.Timeline, entries []postgres.HistoryEntry) string {
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&b, "timeline %d to %s, then ", e.Timeline, e.Switch)
	}
	fmt.Fprintf(&b, "timeline %d", tli)
	return b.String()
}

// putWithAncestry stores a file and makes sure of the histories that it needs: those
// of a history's ancestors first, the one of a segment's timeline at the same time.
func (p *Pusher) putWithAncestry(ctx context.Context, target string, s *repo.Stanza, f postgres.WALFile, file *walFile, content *repo.WALContent) (pushed, error) {
	dir := file.dir()
	if f.Kind != postgres.WALHistory {
		return p.putSegment(ctx, target, s, f, file, content)
	}
	data, err := content.Head(maxHistorySize)
	if err != nil {
		return pushed{}, fmt.Errorf("read WAL file: %w", err)
	}
	h, err := postgres.ParseHistory(f.Timeline, data)
	if err != nil {
		return pushed{}, err
	}
	d := &descent{stanza: s, target: target, dir: dir, history: h, data: data}
	defer func() { p.logNotes(ctx, d) }()
	if err := d.putAncestors(ctx); err != nil {
		return pushed{warnings: d.warnings}, err
	}
	put, err := s.PutWAL(ctx, s.Current(), f, content)
	if err == nil {
		err = d.putTail(ctx, p)
	}
	return pushed{WALPut: put, warnings: d.warnings}, err
}

func (p *Pusher) putSegment(ctx context.Context, target string, s *repo.Stanza, f postgres.WALFile, file *walFile, content *repo.WALContent) (pushed, error) {
	var d *descent
	var ancestryErr error
	lookAfterAncestry := func() { d, ancestryErr = p.ancestryOfSegment(ctx, s, target, f, file.dir(), file.unproven) }
	if file.unproven {
		// Another server's timeline of that number must get nothing of this one's.
		if lookAfterAncestry(); ancestryErr != nil {
			p.logNotes(ctx, d)
			return pushed{warnings: d.warnings}, ancestryErr
		}
	}
	var running sync.WaitGroup
	if !file.unproven {
		running.Go(lookAfterAncestry)
	}
	put, err := s.PutWAL(ctx, s.Current(), f, content)
	running.Wait()
	p.logNotes(ctx, d)
	// A conflict may be settled, which is not to hide what the histories need.
	if err == nil || ancestryErr != nil && errors.Is(err, repo.ErrWALConflict) {
		err = ancestryErr
	}
	return pushed{WALPut: put, warnings: d.warnings}, err
}

func (p *Pusher) logNotes(ctx context.Context, d *descent) {
	for _, note := range d.notes {
		p.Log.InfoContext(ctx, note)
	}
}
