package repo

import (
	"encoding/hex"
	"testing"
)

// The unkeyed values are those that other programs give: b3sum and sha256sum of "abc".
func TestContentIDs(t *testing.T) {
	keys := &keyring{idKey: [32]byte{1}}
	for _, test := range []struct {
		title, algorithm string
		keys             *keyring
		want             string
	}{
		{"BLAKE3", IDBlake3, nil, "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"},
		{"SHA-256", IDSHA256, nil, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
		{"BLAKE3 with a key", IDBlake3, keys, ""},
		{"HMAC-SHA-256", IDSHA256, keys, ""},
	} {
		t.Run(test.title, func(t *testing.T) {
			h, err := newContentHasher(test.algorithm, test.keys)
			if err != nil {
				t.Fatal(err)
			}
			got := h.sum([]byte("abc"))
			if again := h.sum([]byte("abc")); again != got {
				t.Error("the second use gives another id")
			}
			if test.want != "" && hex.EncodeToString(got[:]) != test.want {
				t.Errorf("%s, want %s", got, test.want)
			}
			if test.keys == nil {
				return
			}
			for _, other := range []*keyring{nil, {idKey: [32]byte{2}}} {
				h, err := newContentHasher(test.algorithm, other)
				if err != nil {
					t.Fatal(err)
				}
				if h.sum([]byte("abc")) == got {
					t.Error("the id does not depend on the key")
				}
			}
		})
	}
	if _, err := newContentHasher("md5", nil); err == nil {
		t.Error("md5 is accepted")
	}
}
