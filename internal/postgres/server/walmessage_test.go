package server

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"testing"
	"time"
)

// TestAStatusSaysThatNothingWasApplied holds the message against the bytes of the
// protocol's description: applied is 0 whatever is durable.
func TestAStatusSaysThatNothingWasApplied(t *testing.T) {
	now := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC) // a second after PostgreSQL's epoch
	got := hex.EncodeToString(statusMessage(0x1234567890, now, true))
	want := "72" + "0000001234567890" + "0000001234567890" + "0000000000000000" + "00000000000f4240" + "01"
	if got != want {
		t.Errorf("status %s, want %s", got, want)
	}
	if m := statusMessage(0, now, false); len(m) != 34 || !bytes.Equal(m[1:25], make([]byte, 24)) || m[33] != 0 {
		t.Errorf("a status of nothing: %x", m)
	}
}

func TestWALMessagesAreTakenOrRefused(t *testing.T) {
	wal := append([]byte{'w'}, make([]byte, 24)...)
	binary.BigEndian.PutUint64(wal[1:], 0x2000028)
	for _, c := range []struct {
		name string
		data []byte
		err  string
	}{
		{"WAL", append(bytes.Clone(wal), "abc"...), ""},
		{"WAL without bytes", wal, ""},
		{"a keepalive", append([]byte{'k'}, make([]byte, 17)...), ""},
		{"nothing", nil, "an empty message"},
		{"a short head", wal[:24], "a message of WAL with 24 bytes"},
		{"an impossible position", append(append([]byte{'w'}, bytes.Repeat([]byte{0xff}, 24)...), 1), "1 bytes at the impossible position FFFFFFFF/FFFFFFFF"},
		{"a long keepalive", append([]byte{'k'}, make([]byte, 18)...), "a malformed keepalive of 19 bytes"},
		{"an unclear keepalive", append([]byte{'k'}, bytes.Repeat([]byte{2}, 17)...), "a malformed keepalive of 18 bytes"},
		{"another kind", []byte("xyz"), `a message of unknown kind 'x'`},
	} {
		m, err := parseWALMessage(c.data)
		switch {
		case c.err == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.err)
		case c.name == "WAL" && (m.Kind != WALData || m.Start != 0x2000028 || string(m.Data) != "abc"):
			t.Errorf("%+v", m)
		}
	}
	data := append(bytes.Clone(wal), "abc"...)
	m, _ := parseWALMessage(data)
	clear(data)
	if string(m.Data) != "abc" {
		t.Error("the message shares memory with the buffer of the connection")
	}
}

func FuzzWALMessage(f *testing.F) {
	f.Add(append([]byte{'w'}, make([]byte, 40)...))
	f.Add(append([]byte{'k'}, make([]byte, 17)...))
	f.Add([]byte("5|0/3000000"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseWALMessage(data)
		if err == nil && m.Kind == WALData && m.Start+1 > m.Start && uint64(m.Start)+uint64(len(m.Data)) < uint64(m.Start) {
			t.Errorf("a message that wraps around was taken: %+v", m)
		}
		tli, begin, _ := bytes.Cut(data, []byte("|"))
		if next, err := parseNextTimeline([][]byte{tli, begin}); err == nil && next.Timeline == 0 {
			t.Error("timeline 0 was taken")
		}
	})
}

func TestSlotNames(t *testing.T) {
	for name, ok := range map[string]bool{"a": true, "pgbak_1": true, "": false, "A": false, "a-b": false, "a b": false, "a;b": false,
		strings.Repeat("x", 63): true, strings.Repeat("x", 64): false} {
		if err := CheckSlotName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
