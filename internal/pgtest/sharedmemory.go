package pgtest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
)

// A PostgreSQL server has a small System V shared memory segment, as a lock on its data directory. One that is killed
// leaves it behind; the next server on the directory would remove it, but the directory of a test goes. The kernel has room for
// kernel.shmmni of them (4096), and after some thousand killed servers none starts on the machine any more. (What they share
// besides is told to be files in the data directory, see launch, because the rest would stay in /dev/shm.)

// removeSharedMemory removes the segments that the processes made and to which nobody is attached.
func removeSharedMemory(made []int) {
	table, err := os.Open("/proc/sysvipc/shm")
	if err != nil {
		return // the kernel has none
	}
	defer table.Close()
	for _, id := range abandonedSegments(table, made) {
		// IPC_RMID; a segment that is gone by itself is as good.
		_, _, _ = syscall.Syscall(syscall.SYS_SHMCTL, uintptr(id), 0, 0)
	}
}

// abandonedSegments reads the table of /proc/sysvipc/shm (proc_sysvipc_shm(5)): key, id, permissions, size, and the processes
// that made it and that used it last, and how many are attached.
func abandonedSegments(table io.Reader, made []int) (ids []int) {
	for lines := bufio.NewScanner(table); lines.Scan(); {
		var key, id, size, creator, last, attached int
		var permissions string
		if _, err := fmt.Sscan(lines.Text(), &key, &id, &permissions, &size, &creator, &last, &attached); err != nil {
			continue // the heading
		}
		if attached == 0 && slices.Contains(made, creator) {
			ids = append(ids, id)
		}
	}
	return ids
}
