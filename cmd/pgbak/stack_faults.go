//go:build pgbak_faults

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/pgbak/pgbak/storage"
)

// withFaults lets the environment strike at the n-th storage operation of the
// process (Put, Get, Stat, List and Delete count, from 1). Tests build the
// program with the tag pgbak_faults to prove what a killed or failing run leaves.
//
//	PGBAK_FAULT_KILL_AT=n        SIGKILL right before operation n
//	PGBAK_FAULT_KILL_AFTER=n     SIGKILL right after it had its effect
//	PGBAK_FAULT_KILL_AFTER_PUT=p SIGKILL right after a Put of a key that begins with p had its effect
//	PGBAK_FAULT_FAIL_AT=n        operation n fails without effect
//	PGBAK_FAULT_COUNT_FILE=path  the number of operations begun so far
func withFaults(st storage.Store) storage.Store {
	return &faults{
		Store: st, killAt: number("PGBAK_FAULT_KILL_AT"), killAfter: number("PGBAK_FAULT_KILL_AFTER"),
		failAt: number("PGBAK_FAULT_FAIL_AT"), killAfterPut: os.Getenv("PGBAK_FAULT_KILL_AFTER_PUT"), countFile: os.Getenv("PGBAK_FAULT_COUNT_FILE"),
	}
}

func number(variable string) int {
	n, err := strconv.Atoi(os.Getenv(variable))
	if err != nil {
		return 0
	}
	return n
}

type faults struct {
	storage.Store
	killAt, killAfter, failAt int
	killAfterPut, countFile   string

	mu    sync.Mutex
	count int
}

var errInjected = errors.New("injected storage fault")

// begin counts an operation; after is to be called when it had its effect.
func (f *faults) begin(operation, key string) (after func(), err error) {
	f.mu.Lock()
	f.count++
	n := f.count
	if f.countFile != "" {
		err = os.WriteFile(f.countFile, []byte(strconv.Itoa(n)), 0o666)
	}
	f.mu.Unlock()
	if n == f.killAt {
		die()
	}
	if n == f.failAt {
		err = fmt.Errorf("%s %s: operation %d: %w", operation, key, n, errInjected)
	}
	return func() {
		if n == f.killAfter {
			die()
		}
	}, err
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal arrives any moment; nothing more may happen until then
}

func (f *faults) Put(ctx context.Context, key string, src storage.Source, o storage.PutOptions) error {
	after, err := f.begin("put", key)
	if err != nil {
		return err
	}
	defer after()
	err = f.Store.Put(ctx, key, src, o)
	if err == nil && f.killAfterPut != "" && strings.HasPrefix(key, f.killAfterPut) {
		die()
	}
	return err
}

func (f *faults) Get(ctx context.Context, key string, r storage.Range) (io.ReadCloser, error) {
	after, err := f.begin("get", key)
	if err != nil {
		return nil, err
	}
	defer after()
	return f.Store.Get(ctx, key, r)
}

func (f *faults) Stat(ctx context.Context, key string) (storage.Object, error) {
	after, err := f.begin("stat", key)
	if err != nil {
		return storage.Object{}, err
	}
	defer after()
	return f.Store.Stat(ctx, key)
}

func (f *faults) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		done, err := f.begin("list", prefix)
		if err != nil {
			yield(storage.Object{}, err)
			return
		}
		defer done()
		for o, err := range f.Store.List(ctx, prefix, after) {
			if !yield(o, err) {
				return
			}
		}
	}
}

func (f *faults) Delete(ctx context.Context, keys ...string) error {
	after, err := f.begin("delete", fmt.Sprint(keys))
	if err != nil {
		return err
	}
	defer after()
	return f.Store.Delete(ctx, keys...)
}
