package storage_test

import (
	"errors"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgbak/pgbak/storage"
)

func TestCheckKey(t *testing.T) {
	tests := []struct {
		title string
		key   string
		ok    bool
	}{
		{"one element", "a", true},
		{"several elements", "stanzas/main/wal/1/0000000100000000/000000010000000000000001", true},
		{"spaces, letters of all alphabets", "a b/ü/Ж/\U0001F418", true},
		{"dots inside and three of them", "a.b/.../..a/a..", true},
		{"an element of 255 bytes", strings.Repeat("x", 255), true},
		{"a key of 900 bytes", strings.Repeat("abcdefgh/", 99) + "abcdefghi", true},
		{"a name that only contains the temporary prefix", "x.pgbak-tmp-1", true},

		{"empty", "", false},
		{"only a slash", "/", false},
		{"a leading slash", "/a", false},
		{"a trailing slash", "a/", false},
		{"two slashes", "a//b", false},
		{"a dot", "a/./b", false},
		{"two dots", "a/../b", false},
		{"two dots alone", "..", false},
		{"a NUL byte", "a\x00b", false},
		{"a line end", "a\nb", false},
		{"DEL", "a\x7fb", false},
		{"a backslash", `a\..\b`, false},
		{"no UTF-8", "a/\xff\xfe", false},
		{"what is no character of XML", "a\uffff", false},
		{"an element of 256 bytes", "a/" + strings.Repeat("x", 256), false},
		{"a key of 901 bytes", strings.Repeat("abcdefgh/", 100) + "a", false},
		{"the temporary prefix", ".pgbak-tmp-1", false},
		{"the temporary prefix further down", "a/.pgbak-tmp-1/b", false},
	}
	for _, tt := range tests {
		t.Run(tt.title, func(t *testing.T) {
			err := storage.CheckKey(tt.key)
			if tt.ok && err != nil {
				t.Errorf("CheckKey(%q) = %v, want nil", tt.key, err)
			}
			if !tt.ok && !errors.Is(err, storage.ErrKey) {
				t.Errorf("CheckKey(%q) = %v, want ErrKey", tt.key, err)
			}
		})
	}
}

// FuzzCheckKey holds that an accepted key is a path that cannot leave a
// directory it is joined to, judged by the standard library.
func FuzzCheckKey(f *testing.F) {
	for _, seed := range []string{"", "a", "a/b", "../a", "a/../../b", "/a", "a//b", "a/.", "\x00", "a\\b", ".pgbak-tmp-1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if storage.CheckKey(key) != nil {
			return
		}
		if path.Clean(key) != key || !filepath.IsLocal(key) || len(key) > storage.MaxKey {
			t.Errorf("CheckKey accepts %q, which is no clean local path", key)
		}
		if strings.Contains("/"+key, "/"+storage.TemporaryPrefix) {
			t.Errorf("CheckKey accepts %q, which List would hide", key)
		}
	})
}
