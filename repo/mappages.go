package repo

import (
	"iter"
	"slices"
)

// piece is pages that follow one another in a file and are found together: in
// one frame, one behind the other, or nowhere, because they are zero.
type piece struct {
	zero  bool
	whole bool // they are all of an aligned frame
	ref   frameRef
	slot  uint32 // position in the frame of the first page
	count uint32 // pages
}

// index notes where each run begins, so that a page is found without a scan.
func (m *fileMap) index() {
	m.starts = make([]int64, len(m.runs))
	at := int64(0)
	for i, u := range m.runs {
		m.starts[i] = at
		at += int64(u.count)
	}
}

// runOf gives the run of a page of an indexed map; the page must be in the file.
func (m *fileMap) runOf(page int64) int {
	n, found := slices.BinarySearch(m.starts, page)
	if !found {
		n--
	}
	return n
}

// pieces gives the pages from one up to another, which both lie in the file of
// an indexed map.
func (m *fileMap) pieces(from, to int64) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		if from >= to {
			return
		}
		for n := m.runOf(from); from < to; n++ {
			u, start := m.runs[n], m.starts[n]
			end := min(to, start+int64(u.count))
			for from < end {
				p := m.pieceAt(u, from-start, end-from)
				if !yield(p) {
					return
				}
				from += int64(p.count)
			}
		}
	}
}

// pieceAt is the piece that begins skip pages into a run and has at most limit pages.
func (m *fileMap) pieceAt(u run, skip, limit int64) piece {
	switch u.kind {
	case runAligned:
		slot := skip % PagesPerFrame
		held := min(PagesPerFrame, int64(u.count)-(skip-slot)) // pages of the frame
		count := min(held-slot, limit)
		return piece{ref: m.frames[int64(u.frame)+skip/PagesPerFrame], slot: uint32(slot), count: uint32(count), whole: count == held}
	case runDelta:
		return piece{ref: m.frames[u.frame], slot: u.slot + uint32(skip), count: uint32(limit)}
	}
	return piece{zero: true, count: uint32(limit)}
}

// alignedFrame gives the frame that holds exactly the window's pages, if there is one.
func (m *fileMap) alignedFrame(window int64) (frameRef, bool) {
	page := window * PagesPerFrame
	if page >= m.pages() {
		return frameRef{}, false
	}
	n := m.runOf(page)
	skip := page - m.starts[n]
	if m.runs[n].kind != runAligned || skip%PagesPerFrame != 0 {
		return frameRef{}, false
	}
	return m.frames[int64(m.runs[n].frame)+skip/PagesPerFrame], true
}

// addPages appends pages of a frame that are not all of an aligned one. numbers
// remembers the frames that the map has for this; it is used for one map only.
func (m *fileMap) addPages(numbers map[frameRef]uint32, ref frameRef, slot, count uint32) (first bool) {
	number, known := numbers[ref]
	if !known {
		number = uint32(len(m.frames))
		m.frames = append(m.frames, ref)
		numbers[ref] = number
	}
	if n := len(m.runs); n > 0 {
		if last := &m.runs[n-1]; last.kind == runDelta && last.frame == number && last.slot+last.count == slot {
			last.count += count
			return !known
		}
	}
	m.runs = append(m.runs, run{kind: runDelta, count: count, frame: number, slot: slot})
	return !known
}

// scatter is how many stored bytes a restore of the file reads for each that it
// needs: frames are read whole, even if a few pages of them are still in use.
// It is 1 for a file of aligned frames only.
func (m *fileMap) scatter() float64 {
	var read, needed float64
	seen := make([]bool, len(m.frames))
	for _, u := range m.runs {
		switch u.kind {
		case runAligned:
			for _, ref := range m.frames[u.frame:][:(u.count+PagesPerFrame-1)/PagesPerFrame] {
				read, needed = read+float64(ref.stored), needed+float64(ref.stored)
			}
		case runDelta:
			ref := m.frames[u.frame]
			needed += float64(ref.stored) * min(1, float64(u.count)*float64(m.pageSize)/float64(ref.raw))
			if !seen[u.frame] {
				read, seen[u.frame] = read+float64(ref.stored), true
			}
		}
	}
	if needed == 0 {
		return 1
	}
	return read / needed
}
