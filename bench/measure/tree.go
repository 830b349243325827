package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// every is the time between two samples of memory.
const every = 50 * time.Millisecond

// sample is the resident memory of a tree of processes at its largest. Pages
// that processes share, such as those of libraries, count in each of them.
type sample struct {
	bytes     int64
	processes int // most at one time
}

// watcher samples the descendants of a process until it is stopped.
type watcher struct {
	done   chan struct{}
	result chan sample
}

func watch(pid int) watcher {
	w := watcher{make(chan struct{}), make(chan sample, 1)}
	go func() {
		var peak sample
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-w.done:
				w.result <- peak
				return
			case <-tick.C:
				now := descendants("/proc", pid)
				peak.bytes = max(peak.bytes, now.bytes)
				peak.processes = max(peak.processes, now.processes)
			}
		}
	}()
	return w
}

// stop ends the sampling; the peak comes out of the channel.
func (w watcher) stop() <-chan sample {
	close(w.done)
	return w.result
}

// resident sums up the memory of a process and its descendants. Processes come
// and go meanwhile: what cannot be read any more counts nothing.
func resident(proc string, pid int) sample {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "statm"))
	if err != nil {
		return sample{}
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		return sample{}
	}
	sum := descendants(proc, pid)
	sum.bytes += pages * int64(os.Getpagesize())
	sum.processes++
	return sum
}

// descendants sums up the memory of the children of a process and theirs, which
// proc/PID/task/TID/children lists per thread (proc_pid_task(5)).
func descendants(proc string, pid int) sample {
	var sum sample
	threads, _ := filepath.Glob(filepath.Join(proc, strconv.Itoa(pid), "task", "*", "children"))
	for _, path := range threads {
		children, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, word := range strings.Fields(string(children)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				continue
			}
			of := resident(proc, child)
			sum.bytes += of.bytes
			sum.processes += of.processes
		}
	}
	return sum
}
