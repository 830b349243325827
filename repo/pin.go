package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/pgbak/pgbak/storage"
)

const (
	pinFormat = "pgbak-pin"
	pinBackup = "backup"
)

// Pin is an operation under way: which backup it will commit and which it
// relies on. A collector deletes nothing that a pin names, and nothing of an
// operation whose pin stands, until it has revoked it by occupying its label.
//
// A backup that fails leaves its pin: it tells the collector which packs and
// maps nobody will ever name.
type Pin struct {
	Operation string  `json:"operation"`
	Kind      string  `json:"kind"` // pinBackup
	Stanza    string  `json:"stanza"`
	Label     Label   `json:"label"`
	Parents   []Label `json:"parents,omitempty"`
	// Resumes are interrupted operations whose packs it uses: see resume.go.
	Resumes    []string  `json:"resumes,omitempty"`
	Started    time.Time `json:"started"` // no decision that matters rests on it
	WrappedKey []byte    `json:"wrapped-key,omitempty"`
}

// Pins lists the operations under way or left behind in the stanza. With
// ErrDamaged it gives those that can be read.
func (s *Stanza) Pins(ctx context.Context) ([]Pin, error) {
	pins, damage, err := s.pins(ctx)
	if err == nil {
		err = damage
	}
	return pins, err
}

// pinReads is how many pins are read at once.
const pinReads = 8

// pins lists what can be read, and the damage of what cannot.
func (s *Stanza) pins(ctx context.Context) (pins []Pin, damage, err error) {
	var keys []string
	for obj, err := range s.repo.store.List(ctx, pinsPrefix, "") {
		if err != nil {
			return nil, nil, fmt.Errorf("list %s: %w", pinsPrefix, err)
		}
		keys = append(keys, obj.Key)
	}
	all, broken := make([]Pin, len(keys)), make([]error, len(keys))
	err = readEach(ctx, len(keys), pinReads, func(ctx context.Context, i int) error {
		err := getDocument(ctx, s.repo.store, keys[i], pinFormat, &all[i])
		switch {
		case errors.Is(err, storage.ErrNotExist): // its operation has just ended
			return nil
		case errors.Is(err, ErrDamaged):
			all[i], broken[i] = Pin{}, err
			return nil
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		if p.Stanza == s.name {
			pins = append(pins, p)
		}
	}
	return pins, errors.Join(broken...), nil
}

// claimLabel puts the pin and makes sure that no other pin has the same label,
// whether its operation is under way or dead: a dead one's label may be occupied
// by a collector at any time. All sides put first and look afterwards, so of two
// with one label at least one sees the other, and whoever sees it moves on. The
// other may be moving too, so the operation with the higher id leaves it a second.
// It gives the pins of the others.
func (s *Stanza) claimLabel(ctx context.Context, p *Pin, op ulid.ULID, typ BackupType, taken []Label) (others []Pin, err error) {
	for attempt := 0; attempt < 100; attempt++ {
		if err := putDocument(ctx, s.repo.store, pinKey(op), pinFormat, p, storage.PutOptions{}); err != nil {
			return nil, fmt.Errorf("pin operation: %w", err)
		}
		// A damaged pin of whatever stanza must not stop every backup: should it
		// have our label, the manifest's put-if-absent still decides.
		pins, _, err := s.pins(ctx)
		if err != nil {
			return nil, err
		}
		clash, yields, own := false, false, false
		others = nil
		for _, other := range pins {
			if other.Operation == p.Operation {
				own = true
				continue
			}
			others, taken = append(others, other), append(taken, other.Label)
			if other.Label == p.Label {
				clash, yields = true, yields || other.Operation < p.Operation
			}
		}
		if !own {
			return nil, damagedf(pinKey(op), "", "it does not read back as it was written")
		}
		if !clash {
			return others, nil
		}
		p.Label = newLabel(p.Started, typ, taken)
		if yields {
			p.Label = newLabel(p.Started, typ, append(taken, p.Label))
		}
	}
	return nil, fmt.Errorf("stanza %s: no free label after 100 attempts", s.name)
}
