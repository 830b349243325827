package postgres

import "golang.org/x/sys/cpu"

// sumPage is [sumPageGo] in the fastest way that this CPU has. The length of
// page must be a positive multiple of [checksumRow].
func sumPage(page []byte) uint32 {
	if cpu.X86.HasAVX2 {
		return sumPageAVX2(&page[0], len(page)/checksumRow, &checksumSeeds)
	}
	return sumPageGo(page)
}

// sumPageAVX2 is [sumPageGo] with all thirty-two lanes in four registers. It
// reads rows times [checksumRow] bytes from page on; rows must be positive.
//
//go:noescape
func sumPageAVX2(page *byte, rows int, seeds *[checksumLanes]uint32) uint32
