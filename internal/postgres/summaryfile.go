package postgres

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// SummariesDirectory is where a server of PostgreSQL 17 or later keeps its WAL
// summaries, below the data directory.
const SummariesDirectory = "pg_wal/summaries"

const (
	summarySuffix = ".summary"
	// maxSummarySize is above what a file can need that marks every block of a
	// relation of the largest size, 512 MiB.
	maxSummarySize = 1 << 30
)

// SummaryFile is what the name of a WAL summary file says: it tells which blocks
// the records changed that begin from Start up to, without, End on Timeline.
type SummaryFile struct {
	Timeline   Timeline
	Start, End LSN
}

// ParseSummaryFileName reads the name of a WAL summary file, without a directory:
// forty upper-case hexadecimal digits and ".summary"
// (backend/backup/walsummary.c). It reports false for every other name, and for
// one that says nothing: timeline 0, or an end that is not after the start.
func ParseSummaryFileName(name string) (SummaryFile, bool) {
	digits, ok := strings.CutSuffix(name, summarySuffix)
	if !ok || len(digits) != 40 {
		return SummaryFile{}, false
	}
	var v [5]uint64
	for i := range v {
		n, ok := parseHex8(digits[8*i : 8*i+8])
		if !ok {
			return SummaryFile{}, false
		}
		v[i] = uint64(n)
	}
	f := SummaryFile{Timeline: Timeline(v[0]), Start: LSN(v[1]<<32 | v[2]), End: LSN(v[3]<<32 | v[4])}
	return f, f.Timeline != 0 && f.Start < f.End
}

// Name is the file's name in SummariesDirectory.
func (f SummaryFile) Name() string {
	return fmt.Sprintf("%s%016X%016X%s", f.Timeline, uint64(f.Start), uint64(f.End), summarySuffix)
}

// ListSummaries reads the names in a server's SummariesDirectory. Other files,
// such as the one that the server is just writing, are passed over. A directory
// that does not exist, as before PostgreSQL 17, has none.
func ListSummaries(dir fs.FS) ([]SummaryFile, error) {
	entries, err := fs.ReadDir(dir, ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list WAL summaries: %w", err)
	}
	var files []SummaryFile
	for _, entry := range entries {
		if f, ok := ParseSummaryFileName(entry.Name()); ok {
			files = append(files, f)
		}
	}
	return files, nil
}

// ReadSummaries reads the files in a server's SummariesDirectory and puts them
// together in the order given, which must be that of WAL. Beside the table it
// holds one file at a time. A server removes summaries that are older than
// wal_summary_keep_time: then the error is fs.ErrNotExist.
func ReadSummaries(dir fs.FS, files []SummaryFile) (*BlockTable, error) {
	t := new(BlockTable)
	for _, f := range files {
		b, err := readSummary(dir, f.Name())
		if err == nil {
			err = t.addEncoded(b)
		}
		if err != nil {
			return nil, fmt.Errorf("WAL summary %s: %w", f.Name(), err)
		}
	}
	return t, nil
}

func readSummary(dir fs.FS, name string) ([]byte, error) {
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxSummarySize+1))
	if err == nil && len(b) > maxSummarySize {
		err = fmt.Errorf("more than %d bytes", maxSummarySize)
	}
	return b, err
}

// SummaryGapError says that no summary tells of some WAL. It is the first such
// stretch, in the order of WAL.
type SummaryGapError struct {
	Timeline Timeline
	From, To LSN
}

func (e *SummaryGapError) Error() string {
	return fmt.Sprintf("no WAL summary covers %s to %s on timeline %d", e.From, e.To, e.Timeline)
}

// CoverSummaries chooses files that together tell of all WAL from from up to,
// without, to on the way to h.Timeline, in the order of WAL. Files may overlap,
// and be listed in any order; no more are chosen than needed. What a chosen file
// tells beyond the range, or of a timeline after it was left, makes more blocks
// appear changed and never fewer.
//
// from must lie on timeline fromTLI in this history. The error is a
// *SummaryGapError if there is a hole.
func CoverSummaries(files []SummaryFile, h History, fromTLI Timeline, from, to LSN) ([]SummaryFile, error) {
	if tli := h.TimelineAt(from); tli != fromTLI {
		return nil, fmt.Errorf("%s on timeline %d is not in the history of timeline %d, where timeline %d has it",
			from, fromTLI, h.Timeline, tli)
	}
	if from > to {
		return nil, fmt.Errorf("WAL from %s to %s: the end is before the start", from, to)
	}
	var chosen []SummaryFile
	for _, stretch := range h.stretches(from, to) {
		some, err := stretch.cover(files)
		if err != nil {
			return nil, err
		}
		chosen = append(chosen, some...)
	}
	return chosen, nil
}

// stretches cuts the WAL from from up to, without, to into what each timeline has
// of it on the way to h.Timeline, as TimelineAt tells it. None is empty.
func (h History) stretches(from, to LSN) []SummaryFile {
	var list []SummaryFile
	add := func(tli Timeline, begin LSN) {
		if begin = max(begin, from); begin < to {
			list = append(list, SummaryFile{tli, begin, to})
			to = begin
		}
	}
	add(h.Timeline, h.Begin())
	for i := len(h.Entries) - 1; i >= 0; i-- {
		begin := LSN(0)
		if i > 0 {
			begin = h.Entries[i-1].Switch
		}
		add(h.Entries[i].Timeline, begin)
	}
	slices.Reverse(list)
	return list
}

// cover chooses files that cover f: each time the one that leads furthest of those
// that leave no hole.
func (f SummaryFile) cover(files []SummaryFile) ([]SummaryFile, error) {
	var rest, chosen []SummaryFile
	for _, file := range files {
		if file.Timeline == f.Timeline && file.Start < min(file.End, f.End) {
			rest = append(rest, file)
		}
	}
	slices.SortFunc(rest, func(a, b SummaryFile) int { return cmp.Compare(a.Start, b.Start) })
	var best SummaryFile
	for at := f.Start; at < f.End; at = best.End {
		for len(rest) > 0 && rest[0].Start <= at {
			if rest[0].End > best.End {
				best = rest[0]
			}
			rest = rest[1:]
		}
		if best.End <= at {
			gap := &SummaryGapError{Timeline: f.Timeline, From: at, To: f.End}
			if len(rest) > 0 {
				gap.To = rest[0].Start
			}
			return nil, gap
		}
		chosen = append(chosen, best)
	}
	return chosen, nil
}
