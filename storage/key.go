package storage

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a key, in bytes. An element becomes a file name, where 255 is what
// Linux file systems take; a whole key becomes an S3 key, where 1024 is the
// limit and a bucket prefix needs room too.
const (
	MaxKey     = 900
	MaxElement = 255
)

// TemporaryPrefix begins the names under which drivers keep what is not yet an
// object. No element of a key may begin with it, so that List can hide such
// names without ever hiding an object.
const TemporaryPrefix = ".pgbak-tmp-"

// ErrKey is wrapped by the error of every operation that is given a key which
// does not pass [CheckKey].
var ErrKey = errors.New("invalid key")

// CheckKey tells whether key can name an object: at most [MaxKey] bytes of
// non-empty elements, separated by single slashes, each at most [MaxElement]
// bytes, none of them "." or "..", none beginning with [TemporaryPrefix]; UTF-8
// without control characters, without what XML does not have, and without
// backslashes. That is what every store can carry: S3 lists and deletes in XML,
// and some servers take a backslash for a slash. The error wraps [ErrKey] and
// quotes the key.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: it is empty", ErrKey)
	}
	if len(key) > MaxKey {
		return fmt.Errorf("%w %.40q...: %d bytes, at most %d are allowed", ErrKey, key, len(key), MaxKey)
	}
	if !utf8.ValidString(key) || strings.ContainsFunc(key, notPortable) {
		return fmt.Errorf("%w %q: it contains a control character, a backslash, or what is not UTF-8", ErrKey, key)
	}
	for element := range strings.SplitSeq(key, "/") {
		if fault := elementFault(element); fault != "" {
			return fmt.Errorf("%w %q: %s", ErrKey, key, fault)
		}
	}
	return nil
}

func notPortable(r rune) bool {
	return r < ' ' || r == 0x7f || r == '\\' || r == 0xfffe || r == 0xffff
}

// elementFault says what keeps an element of a key from being a file name that
// stays inside its directory, or "".
func elementFault(element string) string {
	switch {
	case element == "":
		return "an element is empty"
	case element == "." || element == "..":
		return "an element is . or .."
	case len(element) > MaxElement:
		return fmt.Sprintf("an element has %d bytes, at most %d are allowed", len(element), MaxElement)
	case strings.HasPrefix(element, TemporaryPrefix):
		return "an element begins with " + TemporaryPrefix + ", which is kept for unfinished objects"
	}
	return ""
}
