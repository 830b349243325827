package archive

// Acknowledged tells whether Push would return at once because the content that
// the file at path has now is in every repository, by word of the spool. It is for who
// keeps a run going after the file that was asked for is done: see Batch.Each.
func (b *Batch) Acknowledged(path string) (Result, bool) {
	if b.spool == nil {
		return Result{}, false
	}
	return b.newRun(path).acknowledged()
}
