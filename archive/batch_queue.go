package archive

import "slices"

// In which order a run pushes what nobody has asked for. A repository gets files in
// PostgreSQL's order: if the host dies, what it holds is of use up to its end, and not
// only from some place on. A repository that was away for long must not keep new WAL
// from the others either. So what is new goes to the others by itself, and to the one
// that lacks older files in its turn, which means to read and compress it twice.

// readyFile is a file that is ready, and its turn in some repositories.
type readyFile struct {
	name string
	// later are the places that lack an older file: it is not their turn.
	later []string
}

// inTurn orders the files that wait, all of which some repository that can be asked
// lacks. fresh are those that no run has tried, tried the others; both are in
// PostgreSQL's order. lacking gives the places that lack a file and can be asked. away are
// files on their way to some places, by the others, which get them later.
func inTurn(fresh, tried []string, lacking func(name string) []string, away map[string][]string) []readyFile {
	if len(tried) == 0 && len(away) == 0 {
		return turnOfAll(fresh)
	}
	behind := map[string]string{} // by place: the oldest file that it lacks
	lacks := func(place, name string) {
		if old, ok := behind[place]; !ok || inArchiveOrder(name, old) < 0 {
			behind[place] = name
		}
	}
	for _, name := range tried {
		for _, place := range lacking(name) {
			lacks(place, name)
		}
	}
	waits := "" // the oldest of what is new somewhere
	for name, places := range away {
		for _, place := range places {
			lacks(place, name)
		}
		if waits == "" || inArchiveOrder(name, waits) < 0 {
			waits = name
		}
	}
	var first, turn []readyFile
	for _, name := range fresh {
		var later []string
		places := lacking(name)
		for _, place := range places {
			if old, ok := behind[place]; ok && inArchiveOrder(old, name) < 0 {
				later = append(later, place)
			}
		}
		if len(later) > 0 && len(later) == len(places) {
			turn = append(turn, readyFile{name: name}) // there is no other to which it should go before
			continue
		}
		if laneOf(name) != "" && (waits == "" || inArchiveOrder(name, waits) < 0) { // histories are before everything, in any order
			waits = name
		}
		first = append(first, readyFile{name, later})
	}
	for _, name := range tried {
		turn = append(turn, readyFile{name: name})
	}
	slices.SortFunc(turn, func(a, b readyFile) int { return inArchiveOrder(a.name, b.name) })
	// What comes behind a file that is pushed by itself first has its turn when that
	// is done, and again in the queue.
	turn = slices.DeleteFunc(turn, func(f readyFile) bool { return waits != "" && inArchiveOrder(f.name, waits) > 0 })
	return alternate(first, turn)
}

func turnOfAll(names []string) []readyFile {
	var out []readyFile
	for _, name := range names {
		out = append(out, readyFile{name: name})
	}
	return out
}

// alternate takes from both in turn: neither new WAL nor a repository that catches
// up has to wait for the other.
func alternate(a, b []readyFile) []readyFile {
	var out []readyFile
	for i := range max(len(a), len(b)) {
		if i < len(a) {
			out = append(out, a[i])
		}
		if i < len(b) {
			out = append(out, b[i])
		}
	}
	return out
}

// again lets a file be begun once more in this run for the repositories that it
// did not wait for, or whose turn it was not. They come into question again once they
// are open, and have what is older.
func (r *pushRun) again(result Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.later[result.File]; ok {
		delete(r.later, result.File)
		close(r.came)
		r.came = make(chan struct{})
	}
	var missing []string
	for _, f := range result.Failed {
		if !f.Unasked() {
			continue
		}
		for _, t := range r.targets {
			if t.Name == f.Repository {
				missing = append(missing, t.key)
			}
		}
	}
	if len(missing) > 0 {
		r.missing[result.File], r.begun[result.File] = missing, false
	}
}

// next gives the next file that a repository lacks which is not known to fail.
func (r *pushRun) next() (readyFile, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for refilled := false; ; {
		if r.answered && (r.stop.Err() != nil || r.unsettle == nil && r.ahead >= r.bounds.files) {
			return readyFile{}, false
		}
		if len(r.queue) == 0 {
			if refilled || !r.refill() {
				return readyFile{}, false
			}
			refilled = true
			continue
		}
		file := r.queue[0]
		r.queue = r.queue[1:]
		lacking := r.lacking(r.missing[file.name])
		if !slices.ContainsFunc(lacking, func(t *runTarget) bool {
			return !slices.Contains(file.later, t.key) && !t.order.isBlocked(file.name)
		}) {
			continue
		}
		r.beginFile(file)
		if r.answered {
			r.ahead++
		}
		return file, true
	}
}

// beginFile is for files in their order.
func (r *pushRun) beginFile(f readyFile) {
	r.begun[f.name] = true
	if len(f.later) > 0 {
		r.later[f.name] = f.later
	}
	for _, t := range r.targets {
		if !slices.Contains(f.later, t.key) {
			t.order.begin(f.name)
		}
	}
}

// lacking gives those of the places that may be asked: all but those that failed,
// and that take too long to open.
func (r *pushRun) lacking(places []string) []*runTarget {
	var lacking []*runTarget
	for _, t := range r.targets {
		if slices.Contains(places, t.key) && !t.isDown() && (t.isOpen() || r.patience.Err() == nil) {
			lacking = append(lacking, t)
		}
	}
	return lacking
}

// refill looks what is ready now. It needs r.mu.
func (r *pushRun) refill() bool {
	ready, err := filesReady(r.wal)
	if err != nil {
		return false // not called by a server, or not for its directory
	}
	if !r.cleaned {
		r.cleaned = true
		r.clean(ready)
	}
	var fresh, tried []string
	for _, name := range ready {
		if r.begun[name] {
			continue
		}
		places, known := r.missing[name]
		if !known {
			a, err := r.spool.readAcknowledgement(name)
			if err != nil {
				r.missing[name] = r.places()
				fresh = append(fresh, name)
				continue
			}
			places = without(r.places(), r.holders(a))
			r.missing[name] = places
		}
		if len(r.lacking(places)) > 0 {
			tried = append(tried, name)
		}
	}
	r.queue = append(r.queue, inTurn(fresh, tried, func(name string) []string {
		var places []string
		for _, t := range r.lacking(r.missing[name]) {
			places = append(places, t.key)
		}
		return places
	}, r.later)...)
	return len(r.queue) > 0
}
