package repo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestFilesThatShareCompressorsAreStoredRight(t *testing.T) {
	ctx := context.Background()
	by := NewWALCompressors(3)
	stanzas := []*Stanza{walStanza(t, mem.New(), ""), walStanza(t, mem.New(), fixturePassphrase), walStanza(t, mem.New(), "")}
	stanzas[2].repo.o.Compression = mustCompression(t, "s2")
	// More files than memories, at the same time, of which some do not become smaller.
	contents := make([][]byte, 12)
	var files errgroup.Group
	files.SetLimit(3)
	name := func(i int) string {
		f := mustWAL(t, "000000010000000000000001")
		f.Segment += uint64(i)
		return f.Name(fixtureSegment)
	}
	for i := range contents {
		contents[i] = slices.Concat(rows(2*walFrameSize+i, uint64(i)), noise(walFrameSize, uint64(i)))
		files.Go(func() error {
			c := NewWALContent(storage.Bytes(contents[i]))
			c.Compressors = by
			defer c.Close()
			var puts errgroup.Group
			for _, s := range stanzas {
				puts.Go(func() error {
					_, err := s.PutWAL(ctx, s.Current(), mustWAL(t, name(i)), c)
					return err
				})
			}
			return puts.Wait()
		})
	}
	if err := files.Wait(); err != nil {
		t.Fatal(err)
	}
	for i, content := range contents {
		for j, s := range stanzas {
			if got, err := readWAL(ctx, s, s.Current(), name(i)); err != nil || !bytes.Equal(got, content) {
				t.Errorf("file %d, repository %d: %d bytes, %v", i, j, len(got), err)
			}
		}
	}
	if len(by.idle) != 2 || len(by.memories) > 6 {
		t.Errorf("%d settings and %d memories are kept", len(by.idle), len(by.memories))
	}
	for _, idle := range by.idle {
		if len(idle) < 1 || len(idle) > 3 {
			t.Errorf("%d compressors are kept for 3 processes", len(idle))
		}
	}
}

func TestAFileThatIsThereIsNotCompressed(t *testing.T) {
	ctx := context.Background()
	f := mustWAL(t, "000000010000000000000001")
	content := rows(3*walFrameSize, 1)
	put := func(c *WALContent, on ...*Stanza) (outcomes []WALOutcome, errs []error) {
		for range on {
			c.Compress(Compression{})
		}
		for _, s := range on {
			done, err := s.PutWAL(ctx, s.Current(), f, c)
			outcomes, errs = append(outcomes, done.Outcome), append(errs, err)
		}
		return outcomes, errs
	}
	for title, content := range map[string][]byte{"the same": content, "other": rows(3*walFrameSize, 2)} {
		a, b := walStanza(t, mem.New(), ""), walStanza(t, mem.New(), "")
		if _, errs := put(NewWALContent(storage.Bytes(rows(3*walFrameSize, 1))), a); errs[0] != nil {
			t.Fatal(errs)
		}
		by := NewWALCompressors(1)
		by.slots <- struct{}{} // whoever waits for a frame waits for ever
		c := NewWALContent(storage.Bytes(content))
		c.Compressors = by
		outcomes, errs := put(c, a)
		if title == "the same" && (errs[0] != nil || outcomes[0] != WALAlreadyThere) || title == "other" && !errors.Is(errs[0], ErrWALConflict) {
			t.Errorf("%s: %v, %v", title, outcomes, errs)
		}
		if len(c.settings) != 0 {
			t.Errorf("%s: it goes on to be compressed", title)
		}
		<-by.slots
		c.Close()

		// Another repository wants it all the same.
		c = NewWALContent(storage.Bytes(content))
		outcomes, errs = put(c, a, b)
		if errs[1] != nil || outcomes[1] != WALStored {
			t.Errorf("%s: %v, %v", title, outcomes, errs)
		}
		if got, err := readWAL(ctx, b, b.Current(), f.Name(fixtureSegment)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: the other repository has %d bytes, %v", title, len(got), err)
		}
		c.Close()
	}
}

// vanishing loses an object after it was seen.
type vanishing struct {
	storage.Store
	key string
}

func (v vanishing) Stat(ctx context.Context, key string) (storage.Object, error) {
	if key == v.key {
		return storage.Object{Key: key}, nil
	}
	return v.Store.Stat(ctx, key)
}

func TestAFileThatVanishesAfterItWasSeenIsStored(t *testing.T) {
	ctx := context.Background()
	s := walStanza(t, mem.New(), "")
	f := mustWAL(t, "000000010000000000000001")
	on := onStore(s, vanishing{s.repo.store, walKey(s.name, s.Current(), f)})
	content := rows(2*walFrameSize, 1)
	c := NewWALContent(storage.Bytes(content))
	c.Compress(Compression{})
	if put, err := on.PutWAL(ctx, s.Current(), f, c); err != nil || put.Outcome != WALStored || put.StoredSize == 0 {
		t.Errorf("%+v, %v", put, err)
	}
	c.Close()
	if got, err := readWAL(ctx, s, s.Current(), f.Name(fixtureSegment)); err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAHeldFileIsGivenAsItIsReadAndProvenAtItsEnd(t *testing.T) {
	content := rows(3*walReadPiece, 1)
	r, w := io.Pipe()
	h := newHeldWAL(piped{r, int64(len(content))}, func(n int64) []byte { return make([]byte, n) })
	let := make(chan struct{}) // nothing more comes before the beginning was given
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(content[:walReadPiece])
		<-let
		_, more := w.Write(append(bytes.Clone(content[walReadPiece:]), 0))
		written <- errors.Join(err, more, w.Close())
	}()
	if got, err := h.first(walReadPiece); err != nil || !bytes.Equal(got, content[:walReadPiece]) {
		t.Errorf("the beginning: %d bytes, %v", len(got), err)
	}
	close(let)
	_, err := h.whole()
	expectError(t, err, "it has more than 3145728 bytes")
	if err := <-written; err != nil {
		t.Error(err)
	}
}

type piped struct {
	io.ReadCloser
	size int64
}

func (p piped) Size() int64                  { return p.size }
func (p piped) Open() (io.ReadCloser, error) { return p.ReadCloser, nil }
