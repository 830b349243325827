package repo

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func TestWireReadsWhatItWrote(t *testing.T) {
	var w wireWriter
	w.uvarint(0)
	w.uvarint(math.MaxUint64)
	w.byte(7)
	w.u32(0xdeadbeef)
	w.u64(1 << 63)
	w.string("")
	w.string("name")
	w.path("base/1/100", "base/1/1000")
	w.path("base/1/1000", "base/2")
	r := &wireReader{b: w.b}
	if r.uvarint() != 0 || r.uvarint() != math.MaxUint64 || r.byte() != 7 || r.u32() != 0xdeadbeef || r.u64() != 1<<63 {
		t.Error("numbers differ")
	}
	if r.string(10) != "" || r.string(10) != "name" {
		t.Error("strings differ")
	}
	if p := r.path("base/1/100"); p != "base/1/1000" {
		t.Errorf("path %q", p)
	}
	if p := r.path("base/1/1000"); p != "base/2" {
		t.Errorf("path %q", p)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

func TestWireRefuses(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, test := range []struct {
		title string
		bytes string
		read  func(r *wireReader)
		want  string
	}{
		{"a number without its end", "\x80\x80", func(r *wireReader) { r.uvarint() }, "number runs past the end"},
		{"a number of more than 64 bits", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", func(r *wireReader) { r.uvarint() }, "number runs past the end"},
		{"a number over its limit", "\x0b", func(r *wireReader) { r.number(10, "level") }, "level 11 is over 10"},
		{"more items than bytes that follow", "\x03ab", func(r *wireReader) { r.count("frames") }, "3 frames in 2 bytes"},
		{"a size of more than 63 bits", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", func(r *wireReader) { r.int63("size") }, "size"},
		{"a string that is longer than what follows", "\x05abcd", func(r *wireReader) { _ = r.string(10) }, "runs past the end"},
		{"a string over its limit", "\x05abcde", func(r *wireReader) { _ = r.string(4) }, "length 5 is over 4"},
		{"a fixed field that is cut", "abc", func(r *wireReader) { r.u32() }, "runs past the end"},
		{"a common prefix that is longer than the path before", "\x04\x01x", func(r *wireReader) { r.path("abc") }, "common prefix 4 is over 3"},
		{"a path that front coding makes longer than any", "\xe8\x07\x28" + strings.Repeat("y", 40), func(r *wireReader) { r.path(long) }, "length 40 is over 24"},
		{"bytes that are left over", "ab", func(r *wireReader) { r.byte() }, "1 bytes too many"},
	} {
		t.Run(test.title, func(t *testing.T) {
			r := &wireReader{b: []byte(test.bytes)}
			test.read(r)
			err := r.end()
			expectError(t, err, test.want)
			if !errors.Is(err, errWire) {
				t.Errorf("%v is no errWire", err)
			}
		})
	}
}

func TestWireGivesZeroAfterTheFirstFailure(t *testing.T) {
	r := &wireReader{b: []byte("\x80")}
	r.uvarint()
	r.b = []byte("\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01")
	if r.uvarint() != 0 || r.byte() != 0 || r.u32() != 0 || r.u64() != 0 || r.string(9) != "" || r.path("p") != "" || r.count("x") != 0 {
		t.Error("a read after a failure gave something")
	}
	expectError(t, r.end(), "number runs past the end")
}
