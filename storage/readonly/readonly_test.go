package readonly_test

import (
	"errors"
	"io"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
	"github.com/pgbak/pgbak/storage"
	"github.com/pgbak/pgbak/storage/mem"
	"github.com/pgbak/pgbak/storage/readonly"
)

// unopened is a source that nobody may open.
type unopened struct{ t *testing.T }

func (unopened) Size() int64 { return 1 }

func (u unopened) Open() (io.ReadCloser, error) {
	u.t.Error("the source was opened")
	return nil, io.ErrUnexpectedEOF
}

func TestNothingCanBeChanged(t *testing.T) {
	ctx := t.Context()
	inner := mem.New()
	if err := inner.Put(ctx, "a", storage.Bytes([]byte("abc")), storage.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	st := readonly.New(inner)
	for what, err := range map[string]error{
		`put "a": the repository is open for reading only`:          st.Put(ctx, "a", unopened{t}, storage.PutOptions{}),
		`put "b": the repository is open for reading only`:          st.Put(ctx, "b", unopened{t}, storage.PutOptions{IfAbsent: true}),
		`delete ["a" "b"]: the repository is open for reading only`: st.Delete(ctx, "a", "b"),
		`delete []: the repository is open for reading only`:        st.Delete(ctx),
	} {
		if !errors.Is(err, readonly.ErrReadOnly) || err.Error() != what {
			t.Errorf("error %v, want %s", err, what)
		}
		if want := "a command that only reads has tried to write: nothing was changed, please report it as an error of pgbak."; hint.Of(err) != want {
			t.Errorf("hint %q, want %q", hint.Of(err), want)
		}
	}
	if b, err := storage.ReadAll(ctx, st, "a", 10); string(b) != "abc" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	if o, err := st.Stat(ctx, "a"); o.Size != 3 || err != nil {
		t.Errorf("stat gave %+v, %v", o, err)
	}
	keys := 0
	for _, err := range st.List(ctx, "", "") {
		if keys++; err != nil {
			t.Error(err)
		}
	}
	if keys != 1 || st.Properties() != inner.Properties() {
		t.Errorf("%d keys, %+v", keys, st.Properties())
	}
}
