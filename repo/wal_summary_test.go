package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/mem"
)

const summarySegment = "000000010000000000000001"

func testSummary(tableBytes int) WALSummary {
	return WALSummary{Timeline: 1, From: 0xffff0, To: 0x200028, Table: noise(tableBytes, 3)}
}

// summarized is content with a summary.
func summarized(content []byte, s WALSummary) *WALContent {
	c := NewWALContent(storage.Bytes(content))
	c.Summarize(func([]byte) (WALSummary, error) { return s, nil })
	return c
}

// putSummarized puts content into an empty stanza and gives the object.
func putSummarized(t testing.TB, s *Stanza, content []byte, sum WALSummary) (key string, object []byte) {
	t.Helper()
	ctx := context.Background()
	f := mustWAL(t, summarySegment)
	if put, err := s.PutWAL(ctx, s.Current(), f, summarized(content, sum)); err != nil || put.Outcome != WALStored {
		t.Fatalf("%+v, %v", put, err)
	}
	key = walKey(s.name, s.Current(), f)
	object, err := storage.ReadAll(ctx, s.repo.store, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return key, object
}

func putObject(t testing.TB, s *Stanza, key string, object []byte) {
	t.Helper()
	if err := s.repo.store.Put(context.Background(), key, storage.Bytes(object), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
}

// readWithSummary reads the WAL of an object, and its summary by the same reader.
func readWithSummary(t testing.TB, s *Stanza) (content []byte, sum WALSummary, err, sumErr error) {
	t.Helper()
	r, err := s.OpenWAL(context.Background(), s.Current(), mustWAL(t, summarySegment))
	if err != nil {
		return nil, sum, err, nil
	}
	defer r.Close()
	if _, err := r.Summary(); err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("before the end: %v", err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return nil, sum, err, nil
	}
	sum, sumErr = r.Summary()
	return b.Bytes(), sum, nil, sumErr
}

func TestASummaryComesBackByOneRequestAndALargeOneByTwo(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		for tableBytes, want := range map[int]int{1: 1, 10_000: 1, walTailGuess - 200: 1, walTailGuess: 2, 3 << 20: 2} {
			for _, size := range []int{0, 2*walFrameSize + 5} {
				st := faulty.OnOp(mem.New(), func(string, string) error { return nil })
				s := walStanza(t, st, passphrase)
				content, sum := rows(size, 1), testSummary(tableBytes)
				before := len(st.Trace())
				putSummarized(t, s, content, sum)
				if puts := slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return !strings.HasPrefix(op, "put") }); len(puts) != 1 {
					t.Errorf("a summary of %d bytes takes %q", tableBytes, puts)
				}
				before = len(st.Trace())
				got, err := readSummary(context.Background(), s, s.Current(), summarySegment)
				if err != nil || !reflect.DeepEqual(got, sum) {
					t.Fatalf("a summary of %d bytes: %v", tableBytes, err)
				}
				asked := slices.DeleteFunc(st.Trace()[before:], func(op string) bool { return !strings.HasPrefix(op, "get ") })
				if len(asked) != want {
					t.Errorf("a summary of %d bytes behind %d: %q, want %d", tableBytes, size, asked, want)
				}
				back, again, err, sumErr := readWithSummary(t, s)
				if err != nil || sumErr != nil || !bytes.Equal(back, content) || !reflect.DeepEqual(again, sum) {
					t.Errorf("the whole object: %v, %v", err, sumErr)
				}
			}
		}
	})
}

func TestTheSameWALWithAnotherSummaryIsThereAlready(t *testing.T) {
	ctx := context.Background()
	s := walStanza(t, mem.New(), "")
	content := rows(fixtureSegment, 1)
	_, object := putSummarized(t, s, content, testSummary(100))
	for title, c := range map[string]*WALContent{"none": NewWALContent(storage.Bytes(content)), "another": summarized(content, testSummary(200))} {
		put, err := s.PutWAL(ctx, s.Current(), mustWAL(t, summarySegment), c)
		if err != nil || put.Outcome != WALAlreadyThere {
			t.Errorf("%s: %+v, %v", title, put, err)
		}
	}
	if now, err := storage.ReadAll(ctx, s.repo.store, walKey(s.name, s.Current(), mustWAL(t, summarySegment)), 1<<30); err != nil || !bytes.Equal(now, object) {
		t.Errorf("the object was changed: %v", err)
	}
}

func TestAHostThatCannotReadWALReadsItsSummary(t *testing.T) {
	s := walStanza(t, mem.New(), fixturePassphrase)
	putSummarized(t, s, rows(1000, 1), testSummary(100))
	s.repo.keys.identity = nil
	if _, err := readWAL(context.Background(), s, s.Current(), summarySegment); !errors.Is(err, errNoReadingKey) {
		t.Errorf("the WAL: %v", err)
	}
	if _, err := readSummary(context.Background(), s, s.Current(), summarySegment); err != nil {
		t.Errorf("its summary: %v", err)
	}
}

func TestWALWithoutASummarySaysSo(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		for _, size := range []int{0, 5, walFrameSize} {
			for _, held := range []bool{true, false} {
				s := walStanza(t, mem.New(), passphrase)
				c := NewWALContent(storage.Bytes(noise(size, 1)))
				if !held {
					c.hold = -1
					c.Summarize(func([]byte) (WALSummary, error) { panic("a file that is not held has no summary") })
				}
				if _, err := readSummary(ctx, s, s.Current(), summarySegment); !errors.Is(err, storage.ErrNotExist) {
					t.Errorf("a segment that is not there: %v", err)
				}
				if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, summarySegment), c); err != nil {
					t.Fatal(err)
				}
				if _, err := readSummary(ctx, s, s.Current(), summarySegment); !errors.Is(err, ErrNoSummary) || errors.Is(err, ErrDamaged) {
					t.Errorf("%d bytes: %v", size, err)
				}
				if _, _, err, sumErr := readWithSummary(t, s); err != nil || !errors.Is(sumErr, ErrNoSummary) {
					t.Errorf("%d bytes, whole: %v, %v", size, err, sumErr)
				}
			}
		}
	})
}

// TestADamagedSummaryIsNeitherUsedNorTakesItsWALAlong damages every byte that
// follows the frames, cuts the object at each of them, and appends some.
func TestADamagedSummaryIsNeitherUsedNorTakesItsWALAlong(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		s := walStanza(t, mem.New(), passphrase)
		content := rows(3000, 1)
		key, object := putSummarized(t, s, content, testSummary(60))
		size, there, err := parseWALTail(key, object)
		if !there || err != nil {
			t.Fatalf("no tail: %v", err)
		}
		try := func(what string, damaged []byte, unread bool) {
			t.Helper()
			putObject(t, s, key, damaged)
			got, whole, err, wholeErr := readWithSummary(t, s)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%s: the WAL: %v", what, err)
			}
			alone, aloneErr := readSummary(context.Background(), s, s.Current(), summarySegment)
			for _, got := range []struct {
				sum WALSummary
				err error
			}{{whole, wholeErr}, {alone, aloneErr}} {
				if got.err == nil && unread && reflect.DeepEqual(got.sum, testSummary(60)) {
					continue
				}
				if !errors.Is(got.err, ErrDamaged) || !strings.Contains(got.err.Error(), key) {
					t.Errorf("%s: the summary: %v", what, got.err)
				}
			}
		}
		for at := len(object) - size; at < len(object); at++ {
			flipped := bytes.Clone(object)
			flipped[at] ^= 1 << (at % 8)
			salt := passphrase == "" && at < len(object)-size+walSaltSize // nothing is made of it
			try(fmt.Sprintf("byte %d of %d flipped", at, len(object)), flipped, salt)
			try(fmt.Sprintf("cut to %d of %d", at, len(object)), object[:at], false)
		}
		try("a byte more", append(bytes.Clone(object), 0), false)
		// Who reads only the end finds a sound summary there.
		twice := append(bytes.Clone(object), object[len(object)-size:]...)
		try("its own twice", twice, true)
		if _, _, _, err := readWithSummary(t, s); !errors.Is(err, ErrDamaged) {
			t.Errorf("its own twice: %v", err)
		}
	})
}

func TestTheSummaryOfAnotherSegmentIsRefused(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		ctx := context.Background()
		s := walStanza(t, mem.New(), passphrase)
		content := rows(3000, 1)
		key, object := putSummarized(t, s, content, testSummary(60))
		other := mustWAL(t, "000000010000000000000002")
		if _, err := s.PutWAL(ctx, s.Current(), other, summarized(content, testSummary(60))); err != nil {
			t.Fatal(err)
		}
		stranger, err := storage.ReadAll(ctx, s.repo.store, walKey(s.name, s.Current(), other), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		size, _, err := parseWALTail(key, object)
		if err != nil {
			t.Fatal(err)
		}
		for _, tail := range []int{0, walTailSize} { // with the stranger's tail, and with its own
			n := len(object)
			mixed := slices.Concat(object[:n-size], stranger[len(stranger)-size:len(stranger)-tail], object[n-tail:])
			putObject(t, s, key, mixed)
			if _, err := readSummary(ctx, s, s.Current(), summarySegment); !errors.Is(err, ErrDamaged) {
				t.Errorf("tail of %d bytes: %v", tail, err)
			}
		}
	})
}

func TestASummaryOfAnotherTimelineIsDamage(t *testing.T) {
	s := walStanza(t, mem.New(), "")
	sum := testSummary(60)
	sum.Timeline = 2
	putSummarized(t, s, rows(10, 1), sum)
	_, err := readSummary(context.Background(), s, s.Current(), summarySegment)
	expectError(t, err, "it is of timeline 2")
}

func TestASummaryThatCannotBeMadeDoesNotKeepTheWALAway(t *testing.T) {
	sum := testSummary(60)
	for want, work := range map[string]func([]byte) (WALSummary, error){
		"no such page":    func([]byte) (WALSummary, error) { return sum, errors.New("no such page") },
		"index out of":    func(b []byte) (WALSummary, error) { return sum, fmt.Errorf("%d", b[len(b)]) },
		"33554432 bytes":  func([]byte) (WALSummary, error) { return testSummary(maxBlock), nil },
		"0 bytes":         func([]byte) (WALSummary, error) { return testSummary(0), nil },
		"from 1/0 to 0/0": func([]byte) (WALSummary, error) { return WALSummary{Timeline: 1, From: 1 << 32, Table: sum.Table}, nil },
		"of timeline 0":   func([]byte) (WALSummary, error) { return WALSummary{To: 7, Table: sum.Table}, nil },
	} {
		t.Run(want, func(t *testing.T) {
			ctx := context.Background()
			s := walStanza(t, mem.New(), "")
			content := rows(5000, 1)
			c := NewWALContent(storage.Bytes(content))
			defer c.Close()
			c.Summarize(work)
			c.Summarize(func([]byte) (WALSummary, error) { return sum, nil }) // too late
			if _, err := s.PutWAL(ctx, s.Current(), mustWAL(t, summarySegment), c); err != nil {
				t.Fatal(err)
			}
			_, err := c.Summary(ctx)
			expectError(t, err, want)
			if got, _, err, sumErr := readWithSummary(t, s); err != nil || !bytes.Equal(got, content) || !errors.Is(sumErr, ErrNoSummary) {
				t.Errorf("%d bytes, %v, %v", len(got), err, sumErr)
			}
		})
	}
}

func TestASummaryOfANewerVersionIsNoDamage(t *testing.T) {
	b := testSummary(60).encode()
	b[0]++
	if _, err := decodeWALSummary("k", b); !errors.Is(err, ErrNewerFormat) {
		t.Error(err)
	}
}

// FuzzWALSummary reads hostile bytes behind the frames, and a hostile content
// whose seal and tail are right.
func FuzzWALSummary(f *testing.F) {
	s := walStanza(f, mem.New(), "")
	key, object := putSummarized(f, s, rows(10, 1), testSummary(60))
	size, _, err := parseWALTail(key, object)
	if err != nil {
		f.Fatal(err)
	}
	frames := object[:len(object)-size]
	f.Add(object[len(object)-size:], testSummary(60).encode())
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, rest, content []byte) {
		var b bytes.Buffer
		b.Write(make([]byte, walSaltSize))
		w, err := newBlockWriter(&b, sealer{}, key)
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.write(blockSummary, append(content, 0))
		if err != nil {
			t.Skip()
		}
		b.Write(walTail(key, n))
		for _, rest := range [][]byte{rest, b.Bytes()} {
			putObject(t, s, key, slices.Concat(frames, rest))
			if _, err := readWAL(context.Background(), s, s.Current(), summarySegment); err != nil {
				t.Errorf("the WAL: %v", err)
			}
			got, err := readSummary(context.Background(), s, s.Current(), summarySegment)
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerFormat) {
				t.Errorf("%v is no ErrDamaged", err)
			}
			if err == nil && (got.Timeline != 1 || got.From >= got.To) {
				t.Errorf("%+v", got)
			}
		}
	})
}
