// Package hint attaches to an error the one sentence that tells a user what to
// do about it.
//
// The text of the error stays what it was: an error says what happened, to the
// user and to the log alike, and is wrapped, compared and matched as ever. The
// hint travels beside it and is taken out once, by the command that prints the
// error, as a second line that begins with "hint:".
//
//	err := hint.Wrap(err, "run pgbak init first.")
//	...
//	if h := hint.Of(err); h != "" {
//		fmt.Fprintln(os.Stderr, "hint: "+h)
//	}
package hint

import (
	"errors"
	"fmt"
)

// hinted is an error with a hint. It is transparent to everything but [Of].
type hinted struct {
	err  error
	text string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// Wrap returns an error that reads like err, unwraps to it, and carries the
// hint: text as it is when there are no args, else formatted by
// [fmt.Sprintf]. Wrap of a nil error is nil.
func Wrap(err error, text string, args ...any) error {
	if err == nil {
		return nil
	}
	if len(args) > 0 {
		text = fmt.Sprintf(text, args...)
	}
	return &hinted{err: err, text: text}
}

// Of returns the hint of err, without the word "hint:", or "" when there is
// none. Of several hints it is the first that [errors.As] meets on its way
// from the outermost error inwards, through joined errors in their order: who
// wraps last knows most about what the user was doing.
func Of(err error) string {
	var h *hinted
	if !errors.As(err, &h) {
		return ""
	}
	return h.text
}
