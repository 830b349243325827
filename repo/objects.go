package repo

import "iter"

// ObjectUse is a pack or map that a backup needs.
type ObjectUse struct {
	Key  string
	Size int64 // bytes of the object
	// Used is how many of them the backup uses; of a map all.
	Used int64
}

// Objects lists the packs and maps that the backup needs: with its manifest and
// the repository's keys they are all that a restore reads.
func (b *Backup) Objects() iter.Seq[ObjectUse] { return b.tables.objects() }

func (t *manifestTables) objects() iter.Seq[ObjectUse] {
	return func(yield func(ObjectUse) bool) {
		for _, p := range t.packs {
			if !yield(ObjectUse{Key: p.id.key(), Size: p.size, Used: p.used}) {
				return
			}
		}
		for _, m := range t.maps {
			if !yield(ObjectUse{Key: mapKey(m.op, m.number), Size: m.size, Used: m.size}) {
				return
			}
		}
	}
}

// FrameUse is a frame that an extent needs.
type FrameUse struct {
	Pack    string // key of the pack it lies in
	Ordinal int    // its number there
	Stored  int64  // bytes
}

// Frames lists the frames that the extent needs. One that holds several pieces
// of it comes several times.
func (e Extent) Frames() iter.Seq[FrameUse] {
	return func(yield func(FrameUse) bool) {
		for _, p := range e.parts {
			if !yield(FrameUse{Pack: p.ref.pack.key(), Ordinal: int(p.ref.ordinal), Stored: int64(p.ref.stored)}) {
				return
			}
		}
	}
}
