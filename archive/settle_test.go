package archive

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/waltest"
	"github.com/pgbak/pgbak/repo"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

// A conflict is settled only where the archive is proven to hold all of the WAL.
func TestAConflictWithWhatIsNotTheSameWALStands(t *testing.T) {
	w := waltest.New(7, 0x300000).To(0x340000)
	end := w.Switch() - 0x300000
	own := w.Whole(3)
	changed := func(at postgres.LSN) []byte {
		b := bytes.Clone(own)
		b[at] ^= 1
		return b
	}
	for title, c := range map[string]struct {
		archived []byte
		pushed   []byte // nil: own
		settled  bool
	}{
		"behind the switch":              {archived: changed(end), settled: true},
		"the last byte":                  {archived: changed(waltest.SegmentSize - 1), settled: true},
		"in the record of the switch":    {archived: changed(end - 1)},
		"in a record":                    {archived: changed(0x20000)},
		"in the first header":            {archived: changed(24)},
		"no WAL":                         {archived: make([]byte, waltest.SegmentSize)},
		"shorter":                        {archived: own[:waltest.SegmentSize/2]},
		"longer":                         {archived: append(bytes.Clone(own), 0)},
		"nothing":                        {archived: []byte{}},
		"less WAL, switched before":      {archived: func() []byte { s := waltest.New(7, 0x300000).To(0x320000); s.Switch(); return s.Whole(3) }()},
		"more WAL":                       {archived: waltest.New(7, 0x300000).To(0x400000).Whole(3)},
		"what is pushed has no end":      {archived: own, pushed: waltest.New(7, 0x300000).To(0x400000).Whole(3)},
		"what is pushed is torn":         {archived: own, pushed: changed(0x20000)},
		"what is pushed has another end": {archived: own, pushed: changed(end), settled: true},
	} {
		t.Run(title, func(t *testing.T) {
			s := newStanza(t, mem.New(), repo.Identity{SystemID: 7, Major: 18, SegmentSize: waltest.SegmentSize, BlockSize: waltest.PageSize})
			if _, err := s.PutWAL(t.Context(), s.Current(), on(1, 3), repo.NewWALContent(storage.Bytes(c.archived))); err != nil {
				t.Fatal(err)
			}
			name := on(1, 3).Name(waltest.SegmentSize)
			if c.pushed == nil {
				c.pushed = own
			}
			dir := walDir(t, map[string]string{name: string(c.pushed)})
			result, _, err := pushFrom(t, s, dir, name)
			if c.settled && (err != nil || len(result.Warnings) != 1) || !c.settled && !errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("%+v, %v", result, err)
			}
			in, err := s.OpenWAL(t.Context(), s.Current(), on(1, 3))
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if held, err := io.ReadAll(in); err != nil || !bytes.Equal(held, c.archived) {
				t.Errorf("the archive holds %d bytes, or others (%v)", len(held), err)
			}
		})
	}
}

// A partial segment may be passed over only if what it holds before the switch
// point stands in the next timeline's first segment.
func TestAPartialSegmentIsPassedOverOnlyForItsSuccessor(t *testing.T) {
	w := waltest.New(7, 0x300000).To(0x380000)
	at := w.ValidTo(0x350000)
	next := w.Branch(2, at).To(0x400000).Whole(3)
	history := "1\t" + at.String() + "\tno recovery target specified\n"
	own := append(w.Whole(3), make([]byte, waltest.SegmentSize)...)[:waltest.SegmentSize]
	const partial, successor = "000000010000000000000003.partial", "000000020000000000000003"
	flip := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	for title, c := range map[string]struct {
		files    map[string]string
		archived []byte // of the successor
		settled  bool
	}{
		"it is there":                    {map[string]string{"00000002.history": history, successor: string(next)}, nil, true},
		"it is archived":                 {map[string]string{"00000002.history": history}, next, true},
		"it is nowhere":                  {map[string]string{"00000002.history": history}, nil, false},
		"it is torn":                     {map[string]string{"00000002.history": history, successor: string(next[:0x40000])}, nil, false},
		"it differs before the switch":   {map[string]string{"00000002.history": history, successor: string(flip(next, int(at)-0x300001))}, nil, false},
		"it is archived and differs":     {map[string]string{"00000002.history": history}, flip(next, 0x1000), false},
		"there is no history":            {map[string]string{successor: string(next)}, nil, false},
		"the history is of another way":  {map[string]string{"00000002.history": "1\t0/450000\tx\n", successor: string(next)}, nil, false},
		"the history is torn":            {map[string]string{"00000002.history": "1\t0/", successor: string(next)}, nil, false},
		"the newest history is of later": {map[string]string{"00000003.history": history + "2\t0/390000\tx\n", successor: string(next)}, nil, true},
		"the newest leaves it elsewhere": {map[string]string{"00000002.history": history, "00000003.history": "1\t0/450000\tx\n", successor: string(next)}, nil, false},
	} {
		t.Run(title, func(t *testing.T) {
			s := newStanza(t, mem.New(), repo.Identity{SystemID: 7, Major: 18, SegmentSize: waltest.SegmentSize, BlockSize: waltest.PageSize})
			put := func(f postgres.WALFile, content []byte) {
				t.Helper()
				if _, err := s.PutWAL(t.Context(), s.Current(), f, repo.NewWALContent(storage.Bytes(content))); err != nil {
					t.Fatal(err)
				}
			}
			less := w.Segment(3, 0x320000) // of a standby that had got less far
			less = append(less, make([]byte, waltest.SegmentSize-len(less))...)
			put(postgres.WALFile{Kind: postgres.WALPartial, Timeline: 1, Segment: 3}, less)
			if c.archived != nil {
				put(on(2, 3), c.archived)
			}
			c.files[partial] = string(own)
			dir := walDir(t, c.files)
			result, _, err := pushFrom(t, s, dir, partial)
			if c.settled && (err != nil || len(result.Warnings) != 1) || !c.settled && !errors.Is(err, repo.ErrWALConflict) {
				t.Errorf("%+v, %v", result, err)
			}
			mustHold(t, s, partial, less)
		})
	}
}
