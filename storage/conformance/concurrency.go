package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/pgbak/pgbak/storage"
)

func concurrencyChecks() []Check {
	return []Check{
		{Name: "of 32 concurrent puts-if-absent of a key exactly one succeeds, and what it put stays", Run: checkOneWinner, ConditionalPut: true},
		{Name: "a put-if-absent that another one overtakes is ErrExist and changes nothing", Run: checkOvertaken, ConditionalPut: true},
		{Name: "a reader during replacing puts sees one version, whole", Run: checkAtomicReplace},
		{Name: "a reader during a first put sees nothing or all of it", Run: checkAtomicFirst},
		{Name: "puts and deletes that share directories do not disturb one another", Run: checkSharedDirectories},
		{Name: "a list yields every object that is there from before it until after it", Run: checkListDuring},
	}
}

// together runs n functions at once and joins their errors.
func together(n int, f func(i int) error) error {
	var start, done sync.WaitGroup
	start.Add(1)
	faults := make([]error, n)
	for i := range n {
		done.Go(func() {
			start.Wait()
			faults[i] = f(i)
		})
	}
	start.Done()
	done.Wait()
	return errors.Join(faults...)
}

func checkOneWinner(ctx context.Context, st storage.Store, prefix string) error {
	for round := range 5 {
		if err := raceForKey(ctx, st, fmt.Sprintf("%sround/%d/key", prefix, round), 32); err != nil {
			return err
		}
	}
	return nil
}

// version is content that tells by itself whether it is whole: n%256 repeated,
// in a length that belongs to n.
func version(n int) []byte {
	return bytes.Repeat([]byte{byte(n)}, 300_000+10_000*(n%8))
}

func wantVersion(b []byte) error {
	if len(b) == 0 || !bytes.Equal(b, version(int(b[0]))) {
		return fmt.Errorf("a reader saw no whole version: %s", brief(b))
	}
	return nil
}

// readSlowly reads in small pieces, to be overtaken by writers.
func readSlowly(ctx context.Context, st storage.Store, key string) ([]byte, error) {
	r, err := st.Get(ctx, key, storage.Range{})
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	_, err = io.CopyBuffer(struct{ io.Writer }{&b}, struct{ io.Reader }{r}, make([]byte, 4096))
	return b.Bytes(), err
}

func checkAtomicReplace(ctx context.Context, st storage.Store, prefix string) error {
	key := prefix + "dir/key"
	if err := put(ctx, st, key, version(0)); err != nil {
		return err
	}
	var writing atomic.Int32
	writing.Store(2)
	return together(6, func(i int) error {
		if i < 2 {
			defer writing.Add(-1)
			for n := range 30 {
				if err := put(ctx, st, key, version(2*n+i)); err != nil {
					return err
				}
			}
			return nil
		}
		for writing.Load() > 0 {
			b, err := readSlowly(ctx, st, key)
			if err != nil {
				return fmt.Errorf("read during replacing: %w", err)
			}
			if err := wantVersion(b); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkAtomicFirst(ctx context.Context, st storage.Store, prefix string) error {
	const objects = 20
	name := func(n int) string { return fmt.Sprintf("%sdir/%d", prefix, n) }
	var writing atomic.Int32
	writing.Store(1)
	return together(3, func(i int) error {
		if i == 0 {
			defer writing.Add(-1)
			for n := range objects {
				if err := put(ctx, st, name(n), version(n)); err != nil {
					return err
				}
			}
			return nil
		}
		for n := range objects {
			for seen := false; !seen; {
				last := writing.Load() == 0 // what is not there now will not come any more
				b, err := readSlowly(ctx, st, name(n))
				if errors.Is(err, storage.ErrNotExist) && !last {
					continue
				}
				if err != nil {
					return err
				}
				if err := wantVersion(b); err != nil {
					return err
				}
				seen = true
			}
		}
		return nil
	})
}

func checkSharedDirectories(ctx context.Context, st storage.Store, prefix string) error {
	// Each writer puts and deletes its own object; the directories come and
	// go, as a rule, between the steps of the others.
	return together(8, func(i int) error {
		key := fmt.Sprintf("%sa/b/c/%d", prefix, i)
		for n := range 40 {
			want := []byte(fmt.Sprint(i, n))
			if err := st.Put(ctx, key, storage.Bytes(want), ifAbsent); err != nil {
				return err
			}
			if err := wantContent(ctx, st, key, want); err != nil {
				return fmt.Errorf("writer %d, round %d: %w", i, n, err)
			}
			if err := st.Delete(ctx, key); err != nil {
				return err
			}
		}
		return nil
	})
}

func checkListDuring(ctx context.Context, st storage.Store, prefix string) error {
	const lasting = 50
	for n := range lasting {
		if err := putAll(ctx, st, prefix, fmt.Sprintf("dir%d/lasts%d", n%5, n)); err != nil {
			return err
		}
	}
	var writing atomic.Int32
	writing.Store(1)
	return together(3, func(i int) error {
		if i == 0 {
			defer writing.Add(-1)
			return comeAndGo(ctx, st, prefix)
		}
		for writing.Load() > 0 {
			if err := wantLasting(ctx, st, prefix, lasting); err != nil {
				return err
			}
		}
		return nil
	})
}

func comeAndGo(ctx context.Context, st storage.Store, prefix string) error {
	for n := range 100 {
		key := fmt.Sprintf("%sdir%d/goes%d", prefix, n%7, n)
		if err := put(ctx, st, key, nil); err != nil {
			return err
		}
		if err := st.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// wantLasting lists once and holds the order and that all lasting objects are
// in it.
func wantLasting(ctx context.Context, st storage.Store, prefix string, lasting int) error {
	found, last := 0, ""
	for o, err := range st.List(ctx, prefix, "") {
		if err != nil {
			return err
		}
		if o.Key <= last {
			return fmt.Errorf("list gave %q after %q", o.Key, last)
		}
		last = o.Key
		if bytes.Contains([]byte(o.Key), []byte("/lasts")) {
			found++
		}
	}
	if found != lasting {
		return fmt.Errorf("list gave %d of %d objects that were there all the time", found, lasting)
	}
	return nil
}
