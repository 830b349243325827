package postgres

import "fmt"

// WALInSegment says how many of the bytes of the segment f, all of which is data,
// are WAL: all of them, or those up to the end of the record with which the server
// switched to the next one. What follows that record means nothing. The server
// that switched leaves zeros there; a standby that sends on what it receives may
// send what its recycled file held before, since it takes the rest of the segment
// for received once it has replayed the record.
//
// The error says that the WAL ends within the segment: a record is torn, or
// missing. A record that begins before the segment is not looked at.
func WALInSegment(h WALHeader, f WALFile, data []byte) (int64, error) {
	r := newWALReader(h.Major(), h.SegmentSize, h.BlockSize, func(walRecordHeader) int { return 0 })
	start := f.Start(h.SegmentSize)
	used := int64(len(data))
	err := r.readSegment(start, f.Timeline, data, func(record walRecord) error {
		if record.header.isSwitch() {
			end := int64(record.start-start) + walRecordHeaderSize
			if int64(record.start-start)/int64(h.BlockSize) != (end-1)/int64(h.BlockSize) {
				end += walPageHeaderSize // the record goes on behind it
			}
			used = end
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if r.ended || int64(len(data)) != h.SegmentSize {
		return 0, fmt.Errorf("the WAL ends at %s, within segment %s", r.end, f.Name(h.SegmentSize))
	}
	return used, nil
}
