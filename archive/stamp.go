package archive

import "time"

// fileStamp is what the file system says of a file that changes with its content.
// A file that has the stamp it had when its content was summed has that content
// still, and need not be read to know it:
//
//   - Whoever writes to a file, truncates it, renames another onto its name, or
//     copies one there, gives it another inode or another ctime. Unlike mtime, ctime can
//     be set by no call. PostgreSQL uses a segment again by renaming it,
//     which is a new ctime, and by writing it.
//   - A write that follows the reading could get the ctime that was there before only
//     if the kernel's clock showed the same at both. So a stamp is taken only of a file whose
//     ctime lies stampAge before the reading, and that has not changed when the reading is over:
//     see isSettled. That is git's rule for its index.
//   - Clocks that are set back, and disks that are, show the same second again, but
//     not the same nanosecond. A file system that keeps whole seconds gives no stamp.
//   - On file systems that are not of this kernel alone, or do not keep ctime as
//     described, there is no stamp: see stamp. The clock of a file server is another one.
//   - A crash of the machine takes a ctime back and leaves the content that it was of:
//     fdatasync, by which the server writes its WAL, is not of times. A copy of the
//     disk is taken like a crash. So a stamp is of one boot of the kernel.
//
// What is left is who writes by a mapping that was written to before, or to the
// device itself, or takes the device away and brings it back in the seconds after a
// write: no server does so with its WAL.
type fileStamp struct {
	Boot   string `json:"boot"` // the kernel's id of it
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime"` // Unix nanoseconds
	CTime  int64  `json:"ctime"` // Unix nanoseconds
}

// stampAge is how much older than its reading a file must be; the clock that files
// are stamped by goes in steps of at most 10 ms, and of less than a second when the
// machine stalls.
const stampAge = 2 * time.Second

// isSettled tells whether a change after this time, at which the file has the
// stamp, would give it another one.
func (s fileStamp) isSettled(at time.Time) bool {
	age := at.UnixNano() - s.CTime
	return s.CTime%int64(time.Second) != 0 && age >= int64(stampAge)
}
