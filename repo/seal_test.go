package repo

import (
	"bytes"
	"context"
	"testing"
)

func TestSealOpensOnlyWhatWasSealed(t *testing.T) {
	eachSealer(t, func(t *testing.T, s sealer) {
		payload, about := []byte("payload"), []byte("context")
		sealed := s.seal(nil, payload, 3, about)
		if len(sealed) != len(payload)+s.overhead() {
			t.Errorf("%d bytes for %d", len(sealed), len(payload))
		}
		got, err := s.open(bytes.Clone(sealed), 3, about)
		if err != nil || !bytes.Equal(got, payload) {
			t.Fatalf("%q, %v", got, err)
		}
		for _, test := range []struct {
			title  string
			sealed []byte
			number uint64
			about  string
		}{
			{"another number", sealed, 4, "context"},
			{"a number that differs in its high half", sealed, 3 | 1<<40, "context"},
			{"another context", sealed, 3, "contexT"},
			{"a longer context", sealed, 3, "context "},
			{"no context", sealed, 3, ""},
			{"a cut", sealed[:len(sealed)-1], 3, "context"},
			{"a byte more", append(bytes.Clone(sealed), 0), 3, "context"},
			{"only the seal's end", sealed[len(sealed)-s.overhead()+1:], 3, "context"},
			{"nothing", nil, 3, "context"},
		} {
			t.Run(test.title, func(t *testing.T) {
				if _, err := s.open(bytes.Clone(test.sealed), test.number, []byte(test.about)); err == nil {
					t.Error("it opened")
				}
			})
		}
	})
}

func TestKeysOfMetadataDifferByOperationAndObject(t *testing.T) {
	k, err := newKeyring()
	if err != nil {
		t.Fatal(err)
	}
	sealed := map[string]string{}
	for _, op := range [][16]byte{{1}, {2}} {
		for _, subject := range []string{"maps/a", "maps/b"} {
			s, err := k.metaSealer(op, subject)
			if err != nil {
				t.Fatal(err)
			}
			got := string(s.seal(nil, []byte("same"), 0, nil))
			if before, ok := sealed[got]; ok {
				t.Errorf("%v %s has the key of %s", op, subject, before)
			}
			sealed[got] = subject
		}
	}
}

// TestFrameOpensOnlyAsItself moves frames to every place where another could stand.
func TestFrameOpensOnlyAsItself(t *testing.T) {
	eachRepository(t, func(t *testing.T, passphrase string) {
		f := newFixture(t, passphrase)
		b, err := f.stanza.OpenBackup(context.Background(), f.labels[2])
		if err != nil {
			t.Fatal(err)
		}
		sound := b.tables.bundles[0]
		pack := f.content(t, sound.pack.key())
		sealed := pack[sound.offset:sound.end()]
		open := func(ref frameRef) error {
			f := Fetched{backup: b, worker: b.data.worker(), frames: map[frameRef]*fetchedFrame{ref: {ref: ref, bytes: bytes.Clone(sealed)}}}
			return f.decode(ref, make([]byte, ref.raw))
		}
		if err := open(sound); err != nil {
			t.Fatal(err)
		}
		elsewhere := sound
		elsewhere.offset += 4096
		if err := open(elsewhere); err != nil {
			t.Errorf("at another place, as after repacking: %v", err)
		}
		other := b.tables.packs[len(b.tables.packs)-1].id
		if other.op == sound.pack.op {
			t.Fatal("the fixture has one operation only")
		}
		for _, test := range []struct {
			title string
			move  func(r *frameRef)
		}{
			{"of another ordinal", func(r *frameRef) { r.ordinal++ }},
			{"of another pack of the operation", func(r *frameRef) { r.pack.number++ }},
			{"of another operation", func(r *frameRef) { r.pack.op = other.op }},
			{"of another length", func(r *frameRef) { r.raw-- }},
			{"of another codec", func(r *frameRef) { r.codec = (r.codec + 1) % 3 }},
			{"of a codec that does not exist", func(r *frameRef) { r.codec = 7 }},
		} {
			t.Run(test.title, func(t *testing.T) {
				ref := sound
				test.move(&ref)
				expectError(t, open(ref), "is damaged (frame")
			})
		}
	})
}
