package repo

import (
	"context"
	"fmt"
)

// Summarize begins to make, in the background, the summary that every PutWAL
// stores behind the content. work is called once, with all of the content, which
// it must not change, and takes one of the slots in which frames are compressed.
// Of a file above 64 MiB, and when it was called before, Summarize does nothing.
//
// What work fails with, even if it panics, or gives that cannot be stored, is
// for Summary to tell: the content is then stored without. To be called before
// PutWAL.
func (c *WALContent) Summarize(work func(content []byte) (WALSummary, error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.isHeld() || c.summary != nil {
		return
	}
	slots := c.compressors().slots
	made := &walSummarized{done: make(chan struct{})}
	c.summary = made
	c.running.Go(func() {
		defer close(made.done)
		content, err := c.held.whole()
		if err != nil {
			made.err = err
			return
		}
		slots <- struct{}{}
		defer func() { <-slots }()
		made.run(work, content)
	})
}

// walSummarized is the summary of the content.
type walSummarized struct {
	done    chan struct{} // closed when the others are there
	summary WALSummary
	err     error
}

func (m *walSummarized) run(work func(content []byte) (WALSummary, error), content []byte) {
	defer func() {
		// A fault in looking through WAL must not keep WAL from being archived.
		if p := recover(); p != nil {
			m.err = fmt.Errorf("summarising it failed: %v", p)
		}
	}()
	if m.summary, m.err = work(content); m.err == nil {
		m.err = m.summary.check()
	}
}

// Summary waits for the summary that Summarize began. The error wraps
// ErrNoSummary if none was begun.
func (c *WALContent) Summary(ctx context.Context) (WALSummary, error) {
	c.mu.Lock()
	made := c.summary
	c.mu.Unlock()
	if made == nil {
		return WALSummary{}, ErrNoSummary
	}
	select {
	case <-made.done:
		return made.summary, made.err
	case <-ctx.Done():
		return WALSummary{}, context.Cause(ctx)
	}
}
