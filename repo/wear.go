package repo

import (
	"cmp"
	"context"
	"slices"
)

// A pack is deleted when the last backup that uses any of it has gone. So that
// a few frames do not keep a pack for ever, a new backup shares none with packs
// of which its parent uses little: it stores their content again, side by side,
// and the pack goes with the older backups.

const (
	// wornBelow is the part of a pack in use below which it is worn.
	wornBelow = 0.5
	// wearBudget is how much of what the parent refers to is stored again at
	// most, but for one pack, which may be more in a small repository.
	wearBudget = 0.05
	// fullWearBudget is that of a full backup, which is there to renew what it
	// rests on, and reads everything anyway.
	fullWearBudget = 0.25
)

// wornPacks chooses the packs whose frames are to be stored again: those of
// which least is used first, since they give most room for what they cost.
// The budget is a part of what is used of all packs.
func wornPacks(packs []packUse, budget float64) map[packID]*wornPack {
	var total int64
	var worn []packUse
	for _, p := range packs {
		total += p.used
		if float64(p.used) < wornBelow*float64(p.size) {
			worn = append(worn, p)
		}
	}
	slices.SortStableFunc(worn, func(a, b packUse) int {
		return cmp.Compare(float64(a.used)*float64(b.size), float64(b.used)*float64(a.size))
	})
	out := map[packID]*wornPack{}
	left := int64(budget * float64(total))
	for _, p := range worn {
		if left -= p.used; left < 0 && len(out) > 0 {
			break
		}
		out[p.id] = &wornPack{used: p.used}
	}
	return out
}

// wornPack is a pack that is worn by the table of packs. Its size there counts what
// describes the frames, too, which in a pack of tiny files may be most of it: the
// footer is looked at when the first file is met that has content there.
type wornPack struct {
	used   int64 // stored bytes of the frames in use
	judged bool
	worn   bool
}

// isWorn tells whether less than half of the pack's frames are in use. Like Find
// it is for one goroutine.
func (p *Parent) isWorn(ctx context.Context, id packID) bool {
	w := p.worn[id]
	if w == nil {
		return false
	}
	if !w.judged {
		w.judged, w.worn = true, true // what cannot be read is nothing to rest on, either
		if e, err := p.footers.get(ctx, id); err == nil {
			frames := int64(0)
			for _, f := range e.footer.frames {
				frames += int64(f.ref.stored)
			}
			w.worn = float64(w.used) < wornBelow*float64(frames)
		}
	}
	return w.worn
}

// wear chooses the worn packs for a backup of a type. A differential backup
// leaves them alone: as long as its full backup is there so are they, and the
// next one would store the same again.
func (p *Parent) wear(typ BackupType) {
	switch typ {
	case Full:
		p.worn = wornPacks(p.backup.tables.packs, fullWearBudget)
	case Incremental:
		p.worn = wornPacks(p.backup.tables.packs, wearBudget)
	}
}

// findWorn notes which worn packs hold content of the file.
func (f *ParentFile) findWorn(ctx context.Context) {
	if len(f.parent.worn) == 0 {
		return
	}
	note := func(id packID) {
		if f.parent.isWorn(ctx, id) && !f.worn(id) {
			f.wornPacks = append(f.wornPacks, id)
		}
	}
	if f.fileMap != nil {
		for _, ref := range f.fileMap.frames {
			note(ref.pack)
		}
	} else if f.file.content.kind == contentBundle {
		note(f.parent.backup.tables.bundles[f.file.content.number].pack)
	}
}

// worn tells that frames of the pack are not to be shared.
func (f *ParentFile) worn(id packID) bool { return slices.Contains(f.wornPacks, id) }
