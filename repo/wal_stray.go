package repo

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Strays are objects among a stanza's WAL that pgbak has not put there, or not under
// that name. Nothing reads them.
type Strays struct {
	Keys  []string // the first maxStrays
	Count int
}

// maxStrays bounds the keys that are kept.
const maxStrays = 100

func (s *Strays) add(key string) {
	if s.Count++; len(s.Keys) < maxStrays {
		s.Keys = append(s.Keys, key)
	}
}

// With are both together.
func (s Strays) With(o Strays) Strays {
	keys := slices.Concat(s.Keys, o.Keys)
	slices.Sort(keys)
	return Strays{keys[:min(len(keys), maxStrays)], s.Count + o.Count}
}

// StrayWAL gives what lies beside the WAL of the stanza's identities; what lies among
// it is in a Catalog, as far as that was listed. It costs a List more than there are
// identities with WAL, each of which is passed over.
func (s *Stanza) StrayWAL(ctx context.Context) (Strays, error) {
	var out Strays
	for after, isOver := "", false; !isOver; {
		isOver = true
		for obj, err := range s.repo.store.List(ctx, stanzaWALPrefix(s.name), after) {
			if err != nil {
				return out, fmt.Errorf("look for what is not WAL of stanza %s: %w", s.name, err)
			}
			if i := slices.IndexFunc(s.identities, func(id Identity) bool { return strings.HasPrefix(obj.Key, walPrefix(s.name, id.Number)) }); i >= 0 {
				after, isOver = walPrefix(s.name, s.identities[i].Number)+"~", false
				break
			}
			out.add(obj.Key)
		}
	}
	return out, nil
}

// ListedWAL is ListedWALRanges of all segments, with all strays among them.
func (s *Stanza) ListedWAL(ctx context.Context, id Identity) ([]WALRange, Strays, error) {
	w := s.newWALWalk(id, nil)
	err := w.run(ctx)
	return w.out, w.strays, err
}
