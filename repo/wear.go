package repo

import (
	"cmp"
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
func wornPacks(packs []packUse, budget float64) map[packID]bool {
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
	out := map[packID]bool{}
	left := int64(budget * float64(total))
	for _, p := range worn {
		if left -= p.used; left < 0 && len(out) > 0 {
			break
		}
		out[p.id] = true
	}
	return out
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

// wears tells that content of the file lies in a worn pack.
func (f *ParentFile) wears() bool {
	worn := f.parent.worn
	switch {
	case len(worn) == 0:
		return false
	case f.fileMap != nil:
		return slices.ContainsFunc(f.fileMap.frames, func(ref frameRef) bool { return worn[ref.pack] })
	case f.file.content.kind == contentBundle:
		return worn[f.parent.backup.tables.bundles[f.file.content.number].pack]
	}
	return false
}

// worn tells that the frame is not to be shared.
func (f *ParentFile) worn(ref frameRef) bool { return f.parent.worn[ref.pack] }
