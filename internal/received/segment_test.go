package received

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/internal/postgres"
	"github.com/pgbak/pgbak/internal/waltest"
)

// notingDisk notes what is done on a disk, and fails the n-th of it.
type notingDisk struct {
	OS
	done []string
	fail int // 0: none
}

var errDisk = errors.New("the disk is broken")

func (d *notingDisk) do(what, path string) error {
	d.done = append(d.done, what+" "+filepath.Base(path))
	if len(d.done) == d.fail {
		return errDisk
	}
	return nil
}

func (d *notingDisk) WriteAt(f *os.File, p []byte, offset int64) (int, error) {
	if err := d.do(fmt.Sprintf("write %d", offset), f.Name()); err != nil {
		n, _ := d.OS.WriteAt(f, p[:len(p)/2], offset)
		return n, err
	}
	return d.OS.WriteAt(f, p, offset)
}

func (d *notingDisk) Sync(f *os.File) error {
	return errors.Join(d.do("sync", f.Name()), d.OS.Sync(f))
}

func (d *notingDisk) Create(path string) (*os.File, error) {
	if err := d.do("create", path); err != nil {
		return nil, err
	}
	return d.OS.Create(path)
}

func (d *notingDisk) Rename(from, to string) error {
	if err := d.do("rename", from); err != nil {
		return err
	}
	return d.OS.Rename(from, to)
}

// onDisk opens a directory named "wal" on a disk that fails from now on.
func onDisk(t *testing.T, disk *notingDisk) *Directory {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wal")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := Open(path, disk)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestASmallFileAppearsWholeAndDurableOrNotAtAll(t *testing.T) {
	content := []byte("1\t0/3000000\tx\n")
	for title, c := range map[string]struct {
		put  func(d *Directory) error
		name string
	}{
		"history":  {func(d *Directory) error { return d.PutHistory(2, content) }, "00000002.history"},
		"identity": {func(d *Directory) error { return d.Claim(testIdentity()) }, identityFile},
	} {
		t.Run(title, func(t *testing.T) {
			good := &notingDisk{}
			if err := c.put(onDisk(t, good)); err != nil {
				t.Fatal(err)
			}
			draft := c.name + draftSuffix
			if want := []string{"create " + draft, "write 0 " + draft, "sync " + draft, "rename " + draft, "sync wal"}; !slices.Equal(good.done, want) {
				t.Errorf("done %q, want %q", good.done, want)
			}
			for n := range good.done {
				disk := &notingDisk{fail: n + 1}
				d := onDisk(t, disk)
				if err := c.put(d); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), c.name) {
					t.Errorf("%s fails: %v", good.done[n], err)
				}
				if _, err := os.Stat(d.Path(c.name)); (err == nil) != (n == len(good.done)-1) {
					t.Errorf("%s fails: the file is there, or not: %v", good.done[n], err)
				}
				if len(disk.done) != n+1 {
					t.Errorf("%s fails: then %q", good.done[n], disk.done[n+1:])
				}
			}
		})
	}
}

// A draft that a crash left is longer than the next one.
func TestADraftThatIsLeftIsNotMixedIn(t *testing.T) {
	d := open(t, t.TempDir())
	content := "1\t0/3000000\tx\n"
	if err := os.WriteFile(d.Path("00000002.history"+draftSuffix), bytes.Repeat([]byte("9\t0/9\tx\n"), 9), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.PutHistory(2, []byte(content)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(d.Path("00000002.history")); err != nil || string(got) != content {
		t.Errorf("%q %v", got, err)
	}
	if err := d.PutHistory(3, append(bytes.Repeat([]byte("#\n"), maxSmallFile/2), content...)); err == nil {
		t.Error("a history that could not be read again was taken")
	}
}

const partial3, whole3 = "000000010000000000000003.partial", "000000010000000000000003"

func file3(tli postgres.Timeline) postgres.WALFile {
	return postgres.WALFile{Timeline: tli, Segment: 3}
}

func madeIdentity() Identity {
	return Identity{Stanza: "main", SystemID: 7, Major: 18, SegmentSize: waltest.SegmentSize}
}

// receive takes all of a segment in three writes, with a sync behind the first two.
func receive(d *Directory, w *waltest.WAL) (s *Segment, err error) {
	if s, err = d.Begin(madeIdentity(), file3(1), 0, 0); err != nil {
		return s, err
	}
	defer s.Close()
	content := w.Whole(3)
	for _, part := range [][]byte{content[:20], content[20:300_000], content[300_000:]} {
		n, err := s.Write(part)
		if err != nil {
			return s, err
		}
		if n != len(part) {
			return s, fmt.Errorf("%d of %d bytes", n, len(part))
		}
		if s.Full() {
			break
		}
		if err := s.Sync(); err != nil {
			return s, err
		}
	}
	return s, s.Complete()
}

func TestNothingIsDurableThatWasNotSynced(t *testing.T) {
	w := waltest.New(7, 0x300000).To(0x400000)
	good := &notingDisk{}
	s, err := receive(onDisk(t, good), w)
	if err != nil || s.Durable() != 0x400000 {
		t.Fatal(err, s.Durable())
	}
	want := []string{"create " + partial3, "write 0 " + partial3, "sync " + partial3, "sync wal", "write 20 " + partial3, "sync " + partial3,
		"write 300000 " + partial3, "sync " + partial3, "rename " + partial3, "sync wal"}
	if !slices.Equal(good.done, want) {
		t.Fatalf("done %q, want %q", good.done, want)
	}
	durable := []postgres.LSN{0, 0x300000, 0x300000, 0x300000, 0x300014, 0x300014, 0x3493E0, 0x3493E0, 0x400000, 0x400000}
	for n := range want {
		disk := &notingDisk{fail: n + 1}
		d := onDisk(t, disk)
		s, err := receive(d, w)
		if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "received WAL") {
			t.Errorf("%s fails: %v", want[n], err)
		}
		if s == nil {
			continue
		}
		if s.Durable() != durable[n] {
			t.Errorf("%s fails: durable to %s, want %s", want[n], s.Durable(), durable[n])
		}
		if _, err := os.Stat(d.Path(whole3)); (err == nil) != (n == len(want)-1) {
			t.Errorf("%s fails: the whole segment is there, or not: %v", want[n], err)
		}
		if strings.HasPrefix(want[n], "sync") || strings.HasPrefix(want[n], "rename") { // it may not be tried again
			before := len(disk.done)
			_, writeErr := s.Write([]byte{1})
			if syncErr := s.Sync(); !errors.Is(writeErr, errDisk) || !errors.Is(syncErr, errDisk) || len(disk.done) != before {
				t.Errorf("%s fails: after that %v, %v, %q", want[n], writeErr, syncErr, disk.done[before:])
			}
		}
	}
}

// A write that failed, for want of room, may be done again.
func TestAWriteGoesOnWhereItFailed(t *testing.T) {
	w := waltest.New(7, 0x300000).To(0x500000)
	disk := &notingDisk{fail: 2}
	d := onDisk(t, disk)
	s, err := d.Begin(madeIdentity(), file3(1), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	content := append(w.Whole(3), "of the next"...)
	n, err := s.Write(content)
	if n != waltest.SegmentSize/2 || !errors.Is(err, errDisk) {
		t.Fatal(n, err)
	}
	if more, err := s.Write(content[n:]); n+more != waltest.SegmentSize || err != nil {
		t.Fatal(more, err)
	}
	if err := s.Complete(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(d.Path(whole3)); err != nil || !bytes.Equal(got, w.Whole(3)) {
		t.Errorf("%d bytes, or others (%v)", len(got), err)
	}
}

func TestWhatWasReceivedHasToComeAgain(t *testing.T) {
	w := waltest.New(7, 0x200000).To(0x400000)
	valid := w.ValidTo(0x380000)
	there := w.Segment(3, 0x380000)
	changed := func(at postgres.LSN) []byte {
		b := w.Whole(3)
		b[at-0x300000] ^= 1
		return b
	}
	begin := func(t *testing.T, files map[string][]byte, tli, before postgres.Timeline, shared int64) *Segment {
		d := open(t, t.TempDir())
		for name, content := range files {
			if err := os.WriteFile(d.Path(name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := d.Begin(madeIdentity(), file3(tli), before, shared)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	// in writes a segment in pieces and gives the error.
	in := func(s *Segment, content []byte) error {
		for part := range slices.Chunk(content, 10_000) {
			if n, err := s.Write(part); err != nil || n != len(part) {
				return orShort(err, n)
			}
		}
		return nil
	}
	foreign := slices.Clone(there)
	foreign[24]++ // of the system identifier
	torn := slices.Clone(there)
	clear(torn[0x40000:])
	on1 := map[string][]byte{partial3: there}
	for title, c := range map[string]struct {
		files       map[string][]byte
		tli, before postgres.Timeline
		shared      int64
		content     []byte
		differs     postgres.LSN // 0: it does not
	}{
		"the same":                         {files: on1, tli: 1, content: w.Whole(3)},
		"other at the beginning":           {files: on1, tli: 1, content: changed(0x300100), differs: 0x300100},
		"other in the last valid byte":     {files: on1, tli: 1, content: changed(valid - 9), differs: valid - 9},
		"other behind the last record":     {files: on1, tli: 1, content: changed(valid)},
		"of another cluster there":         {files: map[string][]byte{partial3: foreign}, tli: 1, content: w.Whole(3)},
		"less than a header there":         {files: map[string][]byte{partial3: there[:30]}, tli: 1, content: changed(0x300100)},
		"torn by a crash, other before":    {files: map[string][]byte{partial3: torn}, tli: 1, content: changed(0x330000), differs: 0x330000},
		"torn by a crash, other behind":    {files: map[string][]byte{partial3: torn}, tli: 1, content: changed(0x340000)},
		"longer than a segment":            {files: map[string][]byte{partial3: append(w.Whole(3), 1, 2, 3)}, tli: 1, content: changed(0x300100), differs: 0x300100},
		"on the timeline before":           {files: on1, tli: 2, before: 1, shared: 0x50000, content: changed(0x34FFFF), differs: 0x34FFFF},
		"before, behind what is shared":    {files: on1, tli: 2, before: 1, shared: 0x50000, content: changed(0x350000)},
		"before, behind what is valid":     {files: on1, tli: 2, before: 1, shared: 0xF0000, content: changed(valid)},
		"before, not there":                {tli: 2, before: 1, shared: 0x50000, content: changed(0x320000)},
		"before, and nothing is shared":    {files: on1, tli: 2, content: changed(0x320000)},
		"on both, with more on the new":    {files: map[string][]byte{partial3: torn, "000000020000000000000003.partial": there}, tli: 2, before: 1, shared: 0x50000, content: changed(0x360000), differs: 0x360000},
		"on both, with more on the old":    {files: map[string][]byte{partial3: there, "000000020000000000000003.partial": torn}, tli: 2, before: 1, shared: 0x50000, content: changed(0x34FFFF), differs: 0x34FFFF},
		"on both, with less valid than it": {files: map[string][]byte{partial3: torn, "000000020000000000000003.partial": there}, tli: 2, before: 1, shared: 0xF0000, content: changed(0x360000), differs: 0x360000},
	} {
		t.Run(title, func(t *testing.T) {
			err := in(begin(t, c.files, c.tli, c.before, c.shared), c.content)
			if c.differs == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, ErrDiffers) || !strings.Contains(err.Error(), "at "+c.differs.String()) || !strings.Contains(hint.Of(err), "Nothing was overwritten") {
				t.Errorf("%v, hint %q, want a difference at %s", err, hint.Of(err), c.differs)
			}
		})
	}
}

func orShort(err error, n int) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%d bytes were written", n)
}

func TestTheEndIsThatOfTheValidWAL(t *testing.T) {
	w := waltest.New(7, 0x200000).To(0x400000)
	d := open(t, t.TempDir())
	at := func(content []byte) Position {
		t.Helper()
		if err := os.WriteFile(d.Path(partial3), content, 0o600); err != nil {
			t.Fatal(err)
		}
		p, ok, err := d.Position(madeIdentity())
		if err != nil || !ok || p.Timeline != 1 || p.Next != 0x300000 {
			t.Fatalf("%+v %t %v", p, ok, err)
		}
		return p
	}
	for _, end := range []postgres.LSN{0x300028 + 20_000, 0x380000, 0x380001, 0x3FFFFF} {
		if p := at(w.Segment(3, end)); p.End != w.ValidTo(end) {
			t.Errorf("%s is there: the end is %s, want %s", end, p.End, w.ValidTo(end))
		}
	}
	for title, change := range map[string]func(b []byte){
		"another cluster": func(b []byte) { b[24]++ }, "another segment size": func(b []byte) { b[34] = 0x20 }, "another position": func(b []byte) { b[10] = 0x20 }} {
		b := w.Whole(3)
		if change(b); at(b).End != 0x300000 {
			t.Errorf("%s: the end is %s", title, at(b).End)
		}
	}
	// Behind a switch anything may come the next time.
	w = waltest.New(7, 0x200000).To(0x340000)
	end := w.Switch()
	if p := at(w.Whole(3)); p.End != end {
		t.Errorf("behind a switch the end is %s, want %s", p.End, end)
	}
}

// A standby sends what its file held before behind a switch, a primary zeros.
func TestWhatIsBehindASwitchIsSettled(t *testing.T) {
	w := waltest.New(7, 0x200000).To(0x340000)
	end := w.Switch()
	older := w.Whole(3)
	copy(older[end-0x300000:], "of an older use of the file")
	older[len(older)-1] = 1
	full := waltest.New(7, 0x200000).To(0x400000).Whole(3)
	good := &notingDisk{}
	d := onDisk(t, good)
	settle := func(d *Directory, content []byte) error {
		if err := os.WriteFile(d.Path(whole3), content, 0o600); err != nil {
			return err
		}
		return d.Settle(postgres.WALFile{Kind: postgres.WALSegment, Timeline: 1, Segment: 3}, madeIdentity())
	}
	for title, c := range map[string]struct{ content, want []byte }{
		"a standby's": {older, w.Whole(3)}, "a primary's": {w.Whole(3), w.Whole(3)}, "one without a switch": {full, full}, "no WAL": {make([]byte, waltest.SegmentSize), make([]byte, waltest.SegmentSize)},
	} {
		good.done = nil
		err := settle(d, c.content)
		if got, readErr := os.ReadFile(d.Path(whole3)); err != nil || readErr != nil || !bytes.Equal(got, c.want) {
			t.Errorf("%s: %v, %d bytes, or others", title, errors.Join(err, readErr), len(got))
		}
		var want []string
		if title == "a standby's" {
			want = []string{fmt.Sprintf("write %d %s", end-0x300000, whole3), "sync " + whole3}
		}
		if !slices.Equal(good.done, want) {
			t.Errorf("%s: done %q, want %q", title, good.done, want)
		}
	}
	for fail := 1; fail <= 2; fail++ {
		if err := settle(onDisk(t, &notingDisk{fail: fail}), older); !errors.Is(err, errDisk) {
			t.Errorf("operation %d fails: %v", fail, err)
		}
	}
	if err := settle(d, older[:100]); err == nil {
		t.Error("a whole segment of 100 bytes was settled")
	}
}

// All of a header may come by itself, or in any pieces.
func TestTheHeadOfASegmentIsComparedWithItsName(t *testing.T) {
	made := waltest.New(7, 0x400000).To(0x410000).Segment(4, 0x410000)
	for title, c := range map[string]struct {
		change  func(b []byte)
		refused string
	}{
		"its own":                      {func([]byte) {}, ""},
		"of the timeline before":       {func(b []byte) { b[4] = 1 }, ""},
		"of another system identifier": {func(b []byte) { b[24] = 8 }, "it is of system identifier 8, PostgreSQL 18"},
		"of another major":             {func(b []byte) { b[0] = 0x16 }, "it is of system identifier 7, PostgreSQL 17"},
		"of another segment size":      {func(b []byte) { b[34] = 0x20 }, "it is of system identifier 7, PostgreSQL 18, with segments of 2097152 bytes"},
		"of another position":          {func(b []byte) { b[10] = 0x20 }, "it begins with the page of 0/200000 on timeline 1"},
		"of a later timeline":          {func(b []byte) { b[4] = 3 }, "it begins with the page of 0/400000 on timeline 3"},
	} {
		for _, first := range []int{1, postgres.WALHeaderSize - 1, postgres.WALHeaderSize, postgres.WALHeaderSize + 1} {
			d := open(t, t.TempDir())
			s, err := d.Begin(madeIdentity(), postgres.WALFile{Timeline: 2, Segment: 4}, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			b := bytes.Clone(made)
			c.change(b)
			_, err = s.Write(b[:first])
			if err == nil {
				_, err = s.Write(b[first:])
			}
			if c.refused == "" && err != nil || c.refused != "" && (err == nil || !strings.Contains(err.Error(), "000000020000000000000004.partial: "+c.refused)) {
				t.Errorf("%s, %d bytes first: %v, want %q", title, first, err, c.refused)
			}
			if err := s.Sync(); (err == nil) != (c.refused == "") {
				t.Errorf("%s, %d bytes first: after that %v", title, first, err)
			}
		}
	}
}

func TestBehindAWholeSegmentReceivingGoesOn(t *testing.T) {
	d := open(t, t.TempDir())
	if p, ok, err := d.Position(madeIdentity()); ok || err != nil {
		t.Errorf("an empty directory: %+v %v", p, err)
	}
	for _, name := range []string{"000000010000000000000002", whole3, "00000002.history", "00000001000000000000000X"} {
		if err := os.WriteFile(d.Path(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if p, ok, err := d.Position(madeIdentity()); err != nil || !ok || p != (Position{Timeline: 1, End: 0x400000, Next: 0x400000}) {
		t.Errorf("%+v %t %v", p, ok, err)
	}
	if files, err := d.Files(waltest.SegmentSize); err != nil || len(files) != 3 {
		t.Errorf("%v %v", files, err)
	}
}

func TestASmallFileIsSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for size, fits := range map[int]bool{maxSmallFile: true, maxSmallFile + 1: false} {
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if data, err := ReadSmall(path); (err == nil) != fits || fits && len(data) != size {
			t.Errorf("%d bytes: %d, %v", size, len(data), err)
		}
	}
}
