package hint_test

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/pgbak/pgbak/internal/hint"
)

func TestWrapKeepsTheError(t *testing.T) {
	cause := fmt.Errorf("read configuration pgbak.yaml: %w", fs.ErrNotExist)
	err := hint.Wrap(cause, "create it.")
	if got, want := err.Error(), cause.Error(); got != want {
		t.Errorf("Error() = %q, want the cause's text %q alone", got, want)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the cause is lost: errors.Is does not find fs.ErrNotExist")
	}
	if errors.Unwrap(err) != cause {
		t.Error("Unwrap does not give the wrapped error")
	}
}

func TestWrapOfNilIsNil(t *testing.T) {
	if err := hint.Wrap(nil, "do something about %s.", "nothing"); err != nil {
		t.Errorf("Wrap(nil) = %v, want nil", err)
	}
}

func TestOf(t *testing.T) {
	base := errors.New("it broke")
	tests := []struct {
		title string
		err   error
		want  string
	}{
		{"nil has no hint", nil, ""},
		{"an error without a hint has none", base, ""},
		{"the hint of the error itself", hint.Wrap(base, "mend it."), "mend it."},
		{"args are formatted into the text", hint.Wrap(base, "mend %q.", "x"), `mend "x".`},
		{"without args a percent sign is just that", hint.Wrap(base, "free 10% of it."), "free 10% of it."},
		{"a hint deep inside is found", fmt.Errorf("a: %w", fmt.Errorf("b: %w", hint.Wrap(base, "mend it."))), "mend it."},
		{"the outermost of two hints", hint.Wrap(fmt.Errorf("a: %w", hint.Wrap(base, "inner.")), "outer."), "outer."},
		{"a hint in a joined error", errors.Join(base, hint.Wrap(base, "mend it.")), "mend it."},
		{"the first of two joined hints", errors.Join(hint.Wrap(base, "one."), hint.Wrap(base, "two.")), "one."},
		{"an error made of two %w", fmt.Errorf("%w and %w", base, hint.Wrap(base, "mend it.")), "mend it."},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			if got := hint.Of(tt.err); got != tt.want {
				t.Errorf("Of = %q, want %q", got, tt.want)
			}
		})
	}
}
