package repo

import "iter"

// entry gives the entry of a path, if there is one.
func (p *Parent) entry(path string) (File, bool) {
	if p.index != nil {
		f, ok, err := p.index.find(path)
		if err != nil {
			p.note(err)
		}
		return f, ok
	}
	for p.valid && ComparePaths(p.current.Path, path) < 0 {
		p.advance()
	}
	return p.current, p.valid && p.current.Path == path
}

// indexFiles makes every file known that comes before the late ones, which are
// not in order and never shared.
func (p *Parent) indexFiles() {
	p.index = newEntryRun(&ownerTable{}, indexBlock)
	last := ""
	for ; p.valid && (last == "" || ComparePaths(last, p.current.Path) < 0); p.advance() {
		last = p.current.Path
		if err := p.index.add(p.current); err != nil {
			p.note(err)
			break
		}
	}
	if err := p.index.flush(); err != nil {
		p.note(err)
	}
	p.endList() // nothing more is read from the manifest
}

// Files lists the parent's files, of a writer for any order; an error is the
// last thing that it yields.
func (p *Parent) Files() iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		if err := p.Err(); err != nil {
			yield(File{}, err) // some may be missing
			return
		}
		for n := range p.index.blocks {
			files, err := p.index.block(n, nil)
			if err != nil {
				yield(File{}, err)
				return
			}
			for _, f := range files {
				if f.Type == TypeFile && !yield(f, nil) {
					return
				}
			}
		}
	}
}
