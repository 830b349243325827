package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pgbak/pgbak/storage"
)

func listChecks() []Check {
	return []Check{
		{Name: "list is in ascending byte order of the whole key", Run: checkListOrder},
		{Name: "a list prefix is any beginning of a key, at a slash or not", Run: checkListPrefix},
		{Name: "a list prefix that no key can begin with gives nothing", Run: checkListNoPrefix},
		{Name: "a list behind a key gives all that comes behind it, whether it is there or not", Run: checkListAfter},
		{Name: "list tells the size of each object", Run: checkListSizes},
		{Name: "a list may be left early and run again", Run: checkListLeave},
		{Name: "a list of 1100 objects is complete, and one delete takes them all", Run: checkListMany},
	}
}

func deleteChecks() []Check {
	return []Check{
		{Name: "delete removes what it names and nothing else", Run: checkDelete},
		{Name: "delete of absent keys, also under absent directories, is no error", Run: checkDeleteAbsent},
		{Name: "delete of a key that others begin with is no error and spares them", Run: checkDeleteAbove},
	}
}

// wantList holds that the names after prefix that begin with start are listed.
func wantList(ctx context.Context, st storage.Store, prefix, start string, want ...string) error {
	keys, err := list(ctx, st, prefix+start)
	if err != nil {
		return err
	}
	for i := range want {
		want[i] = prefix + want[i]
	}
	if !slices.Equal(keys, want) {
		return fmt.Errorf("list of %q gave %q, want %q", prefix+start, keys, want)
	}
	return nil
}

func checkListOrder(ctx context.Context, st storage.Store, prefix string) error {
	// Between "a!" and "a0" in byte order: ! is 21, - 2d, . 2e, / 2f, 0 30.
	names := []string{
		"Z", "a!/x", "a!x", "a-", "a.b", "a/-", "a/b-c", "a/b.c/d", "a/c", "a/~", "a0", "aa", "b/c/d/e/f", "b/c/d/e0", "b/c/d0",
		"c", "z", "\u00e4", "\U0001F418",
	}
	slices.Sort(names)
	shuffled := slices.Clone(names)
	slices.Reverse(shuffled)
	shuffled = append(shuffled[7:], shuffled[:7]...)
	if err := putAll(ctx, st, prefix, shuffled...); err != nil {
		return err
	}
	return wantList(ctx, st, prefix, "", names...)
}

func checkListPrefix(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "wal/1/0000", "wal/1/0001", "wal/10/0000", "wal/2", "walk", "war/1", "x"); err != nil {
		return err
	}
	for _, c := range []struct {
		start string
		want  []string
	}{
		{"", []string{"wal/1/0000", "wal/1/0001", "wal/10/0000", "wal/2", "walk", "war/1", "x"}},
		{"wa", []string{"wal/1/0000", "wal/1/0001", "wal/10/0000", "wal/2", "walk", "war/1"}},
		{"wal", []string{"wal/1/0000", "wal/1/0001", "wal/10/0000", "wal/2", "walk"}},
		{"wal/", []string{"wal/1/0000", "wal/1/0001", "wal/10/0000", "wal/2"}},
		{"wal/1", []string{"wal/1/0000", "wal/1/0001", "wal/10/0000"}},
		{"wal/1/", []string{"wal/1/0000", "wal/1/0001"}},
		{"wal/1/000", []string{"wal/1/0000", "wal/1/0001"}},
		{"wal/1/0001", []string{"wal/1/0001"}},
		{"wal/1/00011", nil},
		{"wal/1/0001/", nil},
		{"wal/3", nil},
		{"wal/3/", nil},
		{"none/at/all", nil},
		{"x", []string{"x"}},
		{"x/", nil},
	} {
		if err := wantList(ctx, st, prefix, c.start, c.want...); err != nil {
			return err
		}
	}
	return nil
}

func checkListAfter(ctx context.Context, st storage.Store, prefix string) error {
	names := []string{"a!x", "a.b", "a/-", "a/b-c", "a/b.c/d", "a/c", "a0", "b/c/d/e/f", "b/c/d/e0", "b/c/d0", "c"}
	if err := putAll(ctx, st, prefix, names...); err != nil {
		return err
	}
	afters := append([]string{"", "a", "a/", "a/b", "a/b.", "a/b.c/", "a/b.c/e", "a/~", "b", "b/c/d/e", "b/c/d/e/", "bb", "d"}, names...)
	for _, start := range []string{"", "a", "a/", "b/c/d/e"} {
		for _, after := range afters {
			var got, want []string
			for o, err := range st.List(ctx, prefix+start, prefix+after) {
				if err != nil {
					return err
				}
				got = append(got, o.Key)
			}
			for _, name := range names {
				if strings.HasPrefix(name, start) && name > after {
					want = append(want, prefix+name)
				}
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("list of %q behind %q gave %q, want %q", prefix+start, prefix+after, got, want)
			}
		}
	}
	return nil
}

func checkListNoPrefix(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a/b", "c"); err != nil {
		return err
	}
	for _, start := range []string{"/", "//", "../", "..", "./", "a/../", "a/./", "a//", "a/../a", "\x00", "a/\x00/b", storage.TemporaryPrefix, strings.Repeat("x", 300), strings.Repeat("x/", 600)} {
		if err := wantList(ctx, st, prefix, start); err != nil {
			return err
		}
	}
	for _, whole := range []string{"/", "/" + prefix, "../", "/.."} {
		if err := wantList(ctx, st, "", whole); err != nil {
			return err
		}
	}
	return nil
}

func checkListSizes(ctx context.Context, st storage.Store, prefix string) error {
	sizes := map[string]int64{"a": 0, "b/c": 1, "b/d": 4096, "e": 1<<20 + 3}
	for name, size := range sizes {
		if err := put(ctx, st, prefix+name, content(int(size), 5)); err != nil {
			return err
		}
	}
	for o, err := range st.List(ctx, prefix, "") {
		if err != nil {
			return err
		}
		if want := sizes[strings.TrimPrefix(o.Key, prefix)]; o.Size != want {
			return fmt.Errorf("list gave %+v, want size %d", o, want)
		}
	}
	return nil
}

func checkListLeave(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a/b", "a/c", "d", "e/f/g"); err != nil {
		return err
	}
	seq := st.List(ctx, prefix, "")
	for leave := 1; leave <= 4; leave++ {
		n := 0
		for _, err := range seq {
			if err != nil {
				return err
			}
			if n++; n == leave {
				break
			}
		}
	}
	n := 0
	for range seq {
		n++
	}
	if n != 4 {
		return fmt.Errorf("a list that had been left early gave %d objects when run again, want 4", n)
	}
	return nil
}

func checkListMany(ctx context.Context, st storage.Store, prefix string) error {
	// More than an S3 list or delete takes in one request, which is 1000.
	names := make([]string, 1100)
	keys := make([]string, len(names))
	for i := range names {
		names[i] = fmt.Sprintf("many/%04d", i)
		keys[i] = prefix + names[i]
	}
	var wg sync.WaitGroup
	faults := make([]error, 10)
	for w := range faults {
		wg.Go(func() {
			for i := w; i < len(names) && faults[w] == nil; i += len(faults) {
				faults[w] = putAll(ctx, st, prefix, names[i])
			}
		})
	}
	wg.Wait()
	for _, err := range faults {
		if err != nil {
			return err
		}
	}
	if err := putAll(ctx, st, prefix, "many0"); err != nil {
		return err
	}
	if err := wantList(ctx, st, prefix, "many", append(names, "many0")...); err != nil {
		return err
	}
	if err := st.Delete(ctx, keys...); err != nil {
		return err
	}
	return wantList(ctx, st, prefix, "", "many0")
}

func checkDelete(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a/b/c", "a/b/cd", "a/bc", "d", "e/f"); err != nil {
		return err
	}
	if err := st.Delete(ctx, prefix+"a/b/c", prefix+"d"); err != nil {
		return err
	}
	if err := wantAbsent(ctx, st, prefix+"a/b/c"); err != nil {
		return err
	}
	if err := wantList(ctx, st, prefix, "", "a/b/cd", "a/bc", "e/f"); err != nil {
		return err
	}
	if err := st.Delete(ctx, prefix+"a/b/cd", prefix+"a/bc"); err != nil {
		return err
	}
	if err := wantList(ctx, st, prefix, "", "e/f"); err != nil {
		return err
	}
	return wantContent(ctx, st, prefix+"e/f", []byte("e/f"))
}

func checkDeleteAbsent(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a"); err != nil {
		return err
	}
	if err := st.Delete(ctx); err != nil {
		return fmt.Errorf("delete of no keys: %w", err)
	}
	for range 2 {
		err := st.Delete(ctx, prefix+"none", prefix+"no/where/none", prefix+"a/below", prefix+"a", prefix+"a")
		if err != nil {
			return err
		}
	}
	return wantList(ctx, st, prefix, "")
}

func checkDeleteAbove(ctx context.Context, st storage.Store, prefix string) error {
	if err := putAll(ctx, st, prefix, "a/b/c"); err != nil {
		return err
	}
	if err := st.Delete(ctx, prefix+"a", prefix+"a/b"); err != nil {
		return err
	}
	return wantList(ctx, st, prefix, "", "a/b/c")
}
