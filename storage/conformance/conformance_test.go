package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/faulty"
	"github.com/pgbak/pgbak/storage/lookfirst"
	"github.com/pgbak/pgbak/storage/mem"
)

func TestProbeOfAGoodStoreLeavesOthersAlone(t *testing.T) {
	st := mem.New()
	for _, key := range []string{"probe", "probe/x", "probe0", "other/key"} {
		if err := put(t.Context(), st, key, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	report := func(c Check, err error) {
		if kept++; err != nil || c.Name == "" {
			t.Errorf("%q: %v", c.Name, err)
		}
	}
	if err := Probe(t.Context(), st, "probe/run/", report); err != nil || kept != len(Checks()) {
		t.Errorf("%d promises kept, %v", kept, err)
	}
	keys, err := list(t.Context(), st, "")
	if got := strings.Join(keys, " "); got != "other/key probe probe/x probe0" || err != nil {
		t.Errorf("after the probe there is %q, %v", got, err)
	}
}

// broken is a Store of which single methods can be replaced by wrong ones.
type broken struct {
	*mem.Store
	put    func(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error
	get    func(ctx context.Context, st *mem.Store, key string, r storage.Range) (io.ReadCloser, error)
	stat   func(ctx context.Context, st *mem.Store, key string) (storage.Object, error)
	list   func(ctx context.Context, st *mem.Store, prefix string) iter.Seq2[storage.Object, error]
	delete func(ctx context.Context, st *mem.Store, keys ...string) error
}

func (b broken) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	if b.put != nil {
		return b.put(ctx, b.Store, key, src, o)
	}
	return b.Store.Put(ctx, key, src, o)
}

func (b broken) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	if b.get != nil {
		return b.get(ctx, b.Store, key, r)
	}
	return b.Store.Get(ctx, key, r)
}

func (b broken) Stat(ctx context.Context, key string) (storage.Object, error) {
	if b.stat != nil {
		return b.stat(ctx, b.Store, key)
	}
	return b.Store.Stat(ctx, key)
}

func (b broken) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if b.list != nil {
		return b.list(ctx, b.Store, prefix)
	}
	return b.Store.List(ctx, prefix, after)
}

func (b broken) Delete(ctx context.Context, keys ...string) error {
	if b.delete != nil {
		return b.delete(ctx, b.Store, keys...)
	}
	return b.Store.Delete(ctx, keys...)
}

// brokenStores are defects that drivers have had or might have, and the
// promise that each of them breaks.
var brokenStores = []struct {
	title  string
	store  broken
	breaks string
}{
	{"put-if-absent looks first and puts then", broken{put: lookThenPut}, "of 32 concurrent puts-if-absent"},
	{"put-if-absent looks first and is slow", broken{put: lookThenPut}, "a put-if-absent that another one overtakes"},
	{"put-if-absent replaces", broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, _ storage.PutOptions) error {
		return st.Put(ctx, key, src, replacing)
	}}, "a put-if-absent of a taken key"},
	{"put writes in place", broken{put: inPlace}, "a reader during replacing puts"},
	{"put keeps what a failing source gave", broken{put: keepPart}, "a put whose source fails"},
	{"put does not watch its context", broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
		return st.Put(context.WithoutCancel(ctx), key, src, o)
	}}, "a put that is cancelled half-way"},
	{"get takes a suffix for an offset from the start", broken{get: func(ctx context.Context, st *mem.Store, key string, r storage.Range) (io.ReadCloser, error) {
		r.Offset = max(r.Offset, -r.Offset)
		return st.Get(ctx, key, r)
	}}, "a range gives exactly"},
	{"every fault of get is an absence", broken{get: func(ctx context.Context, st *mem.Store, key string, r storage.Range) (io.ReadCloser, error) {
		rc, err := st.Get(ctx, key, r)
		if err != nil {
			err = storage.ErrNotExist
		}
		return rc, err
	}}, "an invalid key"},
	{"stat finds directories", broken{stat: func(ctx context.Context, st *mem.Store, key string) (storage.Object, error) {
		o, err := st.Stat(ctx, key)
		for range st.List(ctx, key+"/", "") {
			return o, nil
		}
		return o, err
	}}, "an absent key is ErrNotExist"},
	{"list goes by elements", broken{list: byElements}, "list is in ascending byte order"},
	{"list takes its prefix for a directory", broken{list: func(ctx context.Context, st *mem.Store, prefix string) iter.Seq2[storage.Object, error] {
		return filter(st.List(ctx, prefix, ""), func(o storage.Object) bool {
			rest := strings.TrimPrefix(o.Key, prefix)
			return rest == "" || strings.HasSuffix(prefix, "/") || rest[0] == '/'
		})
	}}, "a list prefix is any beginning"},
	{"put tears", broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
		if src.Size() < 1<<20 {
			return st.Put(ctx, key, src, o)
		}
		return faulty.Tear(st, 1).Put(ctx, key, src, o)
	}}, "an object of 40 MiB"},
	{"list stops at a thousand", broken{list: func(ctx context.Context, st *mem.Store, prefix string) iter.Seq2[storage.Object, error] {
		n := 0
		return filter(st.List(ctx, prefix, ""), func(storage.Object) bool { n++; return n <= 1000 })
	}}, "a list of 1100 objects"},
	{"list does not know sizes", broken{list: func(ctx context.Context, st *mem.Store, prefix string) iter.Seq2[storage.Object, error] {
		return func(yield func(storage.Object, error) bool) {
			for o, err := range st.List(ctx, prefix, "") {
				if !yield(storage.Object{Key: o.Key}, err) {
					return
				}
			}
		}
	}}, "list tells the size"},
	{"delete of an absent key is an error", broken{delete: func(ctx context.Context, st *mem.Store, keys ...string) error {
		for _, key := range keys {
			if _, err := st.Stat(ctx, key); err != nil {
				return err
			}
		}
		return st.Delete(ctx, keys...)
	}}, "delete of absent keys"},
	{"delete takes what is below", broken{delete: deleteBelow}, "delete of a key that others begin with"},
	{"delete takes only the first key", broken{delete: func(ctx context.Context, st *mem.Store, keys ...string) error {
		return st.Delete(ctx, keys[:min(1, len(keys))]...)
	}}, "delete removes what it names"},
}

func lookThenPut(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
	if _, err := st.Stat(ctx, key); err == nil && o.IfAbsent {
		return storage.ErrExist
	}
	for range 10 {
		runtime.Gosched()
	}
	return st.Put(ctx, key, src, replacing)
}

// inPlace shows the first half of the content for a moment.
func inPlace(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
	if o.IfAbsent {
		return st.Put(ctx, key, src, o)
	}
	r, err := src.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	half, err := io.ReadAll(io.LimitReader(r, src.Size()/2))
	if err == nil {
		err = put(ctx, st, key, half)
	}
	if err != nil {
		return err
	}
	for range 10 {
		runtime.Gosched()
	}
	return st.Put(ctx, key, src, o)
}

func keepPart(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
	err := st.Put(ctx, key, src, o)
	if err == nil || errors.Is(err, storage.ErrExist) {
		return err
	}
	if r, openErr := src.Open(); openErr == nil {
		part, _ := io.ReadAll(r)
		_ = put(ctx, st, key, part)
	}
	return err
}

// byElements lists as a walk through directories does that sorts names.
func byElements(ctx context.Context, st *mem.Store, prefix string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		var later []storage.Object
		for o, err := range st.List(ctx, prefix, "") {
			if err != nil {
				yield(o, err)
				return
			}
			if strings.Contains(strings.TrimPrefix(o.Key, prefix), "/") {
				later = append(later, o)
			} else if !yield(o, nil) {
				return
			}
		}
		for _, o := range later {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func filter(seq iter.Seq2[storage.Object, error], keep func(storage.Object) bool) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range seq {
			if (err != nil || keep(o)) && !yield(o, err) {
				return
			}
		}
	}
}

func deleteBelow(ctx context.Context, st *mem.Store, keys ...string) error {
	if err := st.Delete(ctx, keys...); err != nil {
		return err
	}
	for _, key := range keys {
		below, err := list(ctx, st, key+"/")
		if err != nil {
			return err
		}
		if err := st.Delete(ctx, below...); err != nil {
			return err
		}
	}
	return nil
}

func TestTheChecksFindStaleListsAndTornPuts(t *testing.T) {
	for title, damage := range map[string]func(storage.Store) *faulty.Store{
		"a list misses what the last operation put": func(st storage.Store) *faulty.Store { return faulty.Stale(st, 1) },
		"the first put is torn":                     func(st storage.Store) *faulty.Store { return faulty.Tear(st, 1) },
		"the fifth put is torn":                     func(st storage.Store) *faulty.Store { return faulty.Tear(st, 5) },
	} {
		t.Run(title, func(t *testing.T) {
			found := 0
			for _, c := range Checks() {
				st := damage(mem.New())
				err := c.Run(t.Context(), st, "x/")
				if err != nil && !st.Fired() {
					t.Errorf("%q failed without a fault: %v", c.Name, err)
				}
				if err != nil {
					found++
				}
				if strings.HasPrefix(c.Name, "what was put is at once") && err == nil {
					t.Errorf("%q passed", c.Name)
				}
			}
			if found == 0 {
				t.Error("no check found it")
			}
		})
	}
}

// refusing is a store whose server does not know conditional puts.
func refusing(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
	if o.IfAbsent {
		return errors.New("501 not implemented")
	}
	return st.Put(ctx, key, src, o)
}

func TestConditionalPut(t *testing.T) {
	errDenied := errors.New("403 access denied")
	failing := func(err error, only func(storage.PutOptions) bool) broken {
		return broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
			if only(o) {
				return err
			}
			return st.Put(ctx, key, src, o)
		}}
	}
	always := func(storage.PutOptions) bool { return true }
	conditional := func(o storage.PutOptions) bool { return o.IfAbsent }
	transient := fmt.Errorf("503: %w", storage.ErrTransient)
	for _, tt := range []struct {
		title string
		store broken
		held  bool
		err   error
	}{
		{"a good store", broken{}, true, nil},
		{"one that ignores the condition", broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, _ storage.PutOptions) error {
			return st.Put(ctx, key, src, replacing)
		}}, false, nil},
		{"one that looks first", broken{put: lookThenPut}, false, nil},
		{"one that does not know the condition", broken{put: refusing}, false, nil},
		{"one that says success and keeps nothing", broken{put: func(ctx context.Context, st *mem.Store, key string, src storage.Source, o storage.PutOptions) error {
			err := st.Put(ctx, key, src, o)
			return errors.Join(err, st.Delete(ctx, key))
		}}, false, nil},
		{"one that takes no puts", failing(errDenied, always), false, errDenied},
		{"one that is down for conditional puts", failing(transient, conditional), false, storage.ErrTransient},
		{"one that cannot be read", broken{get: func(context.Context, *mem.Store, string, storage.Range) (io.ReadCloser, error) {
			return nil, errDenied
		}}, false, errDenied},
		{"one that cannot be cleaned", broken{delete: func(context.Context, *mem.Store, ...string) error { return errDenied }}, false, errDenied},
	} {
		t.Run(tt.title, func(t *testing.T) {
			st := tt.store
			st.Store = mem.New()
			if err := put(t.Context(), st.Store, "other", nil); err != nil {
				t.Fatal(err)
			}
			held, err := ConditionalPut(t.Context(), st, "probe/1/")
			if held != tt.held || !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) {
				t.Errorf("held %v, error %v, want %v, %v", held, err, tt.held, tt.err)
			}
			if left, err := list(t.Context(), st.Store, ""); tt.store.delete == nil && (err != nil || len(left) != 1) {
				t.Errorf("left is %q, %v", left, err)
			}
		})
	}
}

func TestWhatIsNotPromisedIsReportedSo(t *testing.T) {
	notPromised := 0
	err := Probe(t.Context(), lookfirst.New(mem.New()), "x/", func(c Check, err error) {
		switch {
		case errors.Is(err, ErrNotPromised) && c.ConditionalPut:
			notPromised++
		case err != nil || c.ConditionalPut:
			t.Errorf("%q: %v", c.Name, err)
		}
	})
	if notPromised != 2 || err != nil {
		t.Errorf("%d checks are not promised, %v", notPromised, err)
	}
}

func TestAProbeEndsWithItsContextAndCleansUp(t *testing.T) {
	st := mem.New()
	cause := errors.New("the user has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	slow := broken{Store: st, get: func(ctx context.Context, st *mem.Store, key string, r storage.Range) (io.ReadCloser, error) {
		cancel(cause)
		return st.Get(ctx, key, r)
	}}
	reports := 0
	if err := Probe(ctx, slow, "x/", func(Check, error) { reports++ }); !errors.Is(err, cause) || reports != 0 {
		t.Errorf("%d reports, %v", reports, err)
	}
	if left, err := list(t.Context(), st, ""); err != nil || len(left) > 0 {
		t.Errorf("left is %q, %v", left, err)
	}
}

func TestNoCheckHangsOnAStoreThatTakesNoPuts(t *testing.T) {
	trouble := errors.New("403 access denied")
	for _, c := range Checks() {
		st := broken{Store: mem.New(), put: func(context.Context, *mem.Store, string, storage.Source, storage.PutOptions) error { return trouble }}
		if err := c.Run(t.Context(), st, "x/"); err == nil {
			t.Errorf("%q passed", c.Name)
		}
	}
}

func TestTheChecksFindBrokenStores(t *testing.T) {
	for _, tt := range brokenStores {
		t.Run(tt.title, func(t *testing.T) {
			found := false
			for _, c := range Checks() {
				if !strings.HasPrefix(c.Name, tt.breaks) {
					continue
				}
				found = true
				st := tt.store
				st.Store = mem.New()
				if err := c.Run(t.Context(), st, "x/"); err == nil {
					t.Errorf("%q passed", c.Name)
				}
			}
			if !found {
				t.Errorf("no check is called %q", tt.breaks)
			}
		})
	}
}
