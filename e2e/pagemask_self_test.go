package e2e

import (
	"bytes"
	"testing"
)

// heapSample is a heap page with two tuples of 40 bytes.
func heapSample() []byte {
	page := make([]byte, 8192)
	le.PutUint32(page[4:], 0x1000) // LSN
	le.PutUint16(page[12:], pageHeader+8)
	le.PutUint16(page[14:], 8192-80)
	le.PutUint16(page[16:], 8192)
	le.PutUint16(page[18:], 8192|4)
	for n, at := range []uint32{8192 - 40, 8192 - 80} {
		le.PutUint32(page[pageHeader+4*n:], at|lpNormal<<15|37<<17)
		for i := range uint32(37) {
			page[at+i] = byte(i + 1)
		}
		le.PutUint16(page[at+20:], 0x0902) // xmin committed, xmax invalid
	}
	return page
}

// TestTheMasksHideHintsOnly changes single bytes of a page: what is a hint must
// be forgiven, and nothing else.
func TestTheMasksHideHintsOnly(t *testing.T) {
	t.Parallel()
	forgiven := map[int]bool{}
	for i := range 10 {
		forgiven[i] = true // LSN, checksum
	}
	for i := 20; i < 24; i++ {
		forgiven[i] = true // pd_prune_xid
	}
	for i := pageHeader + 8; i < 8192-80; i++ {
		forgiven[i] = true // the hole
	}
	for _, at := range []int{8192 - 40, 8192 - 80} {
		for i := range 4 {
			forgiven[at+8+i] = true // the command
		}
		for i := 37; i < 40; i++ {
			forgiven[at+i] = true // padding
		}
	}
	a := heapSample()
	if kind, why := samePage(a, bytes.Clone(a)); kind != heapPage || why != "" {
		t.Fatalf("a page differs from itself: %s, %s", kind, why)
	}
	for i := range a {
		if i >= 12 && i < 20 {
			continue // where the parts of the page lie: changing them gives another page altogether
		}
		b := bytes.Clone(a)
		b[i] ^= 0x10
		if _, why := samePage(a, b); forgiven[i] != (why == "") {
			t.Errorf("byte %d: %q, forgiven is %v", i, why, forgiven[i])
		}
	}
	for _, c := range []struct {
		title    string
		bits     uint16
		forgiven bool
	}{
		{"xmin known to be aborted", 0x0900 ^ 0x0a00, true}, {"xmax committed", 0x0400, true}, {"frozen", 0x0200, false},
		{"combo command", 0x0020, true}, {"locked only", 0x0080, false}, {"a multixact", 0x1000, false}, {"nulls", 0x0001, false},
	} {
		b := bytes.Clone(a)
		le.PutUint16(b[8192-40+20:], le.Uint16(b[8192-40+20:])^c.bits)
		if _, why := samePage(a, b); (why == "") != c.forgiven {
			t.Errorf("%s: %q, forgiven is %v", c.title, why, c.forgiven)
		}
	}
	if _, why := samePage(a, make([]byte, 8192)); why == "" {
		t.Error("a page of zeros is taken for one with tuples")
	}
}

// A leaf of a B-tree from which the last tuple went keeps it in its hole; what a meta
// page or a map has in the same place counts.
func TestWhatAnEmptyPageHeldBeforeIsNoDifference(t *testing.T) {
	t.Parallel()
	for mark, c := range map[uint16]struct {
		kind     pageKind
		forgiven bool
	}{0: {btreePage, true}, 0xff81: {gistPage, true}, 0xff80: {hashPage, false}} {
		a := make([]byte, 8192)
		le.PutUint32(a[4:], 0x1000)
		le.PutUint16(a[12:], pageHeader)
		le.PutUint16(a[14:], 8192-16)
		le.PutUint16(a[16:], 8192-16)
		le.PutUint16(a[18:], 8192|4)
		le.PutUint16(a[8192-4:], 1) // a leaf; a bucket's overflow
		le.PutUint16(a[8192-2:], mark)
		b := bytes.Clone(a)
		b[pageHeader] = 0xe0
		if kind, why := samePage(a, b); kind != c.kind || (why == "") != c.forgiven {
			t.Errorf("%s, want %s: %q, forgiven is %t", kind, c.kind, why, c.forgiven)
		}
		le.PutUint16(b[12:], pageHeader+4)
		if _, why := samePage(a, b); why == "" {
			t.Errorf("%s: a page with a tuple is taken for an empty one", c.kind)
		}
	}
}
