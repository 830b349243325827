package repo

import (
	"cmp"
	"runtime"
	"sync"

	"github.com/pgbak/pgbak/repo/codec"
)

// WALCompressors are what the frames of WAL files are compressed by. Several
// WALContents that share them compress no more frames at the same time than it was
// told, all together; and the next one uses again what the last one has left,
// memory that the kernel would have to clear otherwise. It is safe for
// concurrent use.
//
// What it keeps is bounded: a compressor for each frame at the same time and each
// setting, and the memory for the frames of as many files as were open at the same
// time. It goes when the WALCompressors do.
type WALCompressors struct {
	slots chan struct{} // held while a frame is compressed

	mu       sync.Mutex
	idle     map[Compression][]*walCompressor
	memories []*walMemory
}

// NewWALCompressors makes compressors for so many frames at the same time; 0 is
// runtime.GOMAXPROCS.
func NewWALCompressors(processes int) *WALCompressors {
	return &WALCompressors{slots: make(chan struct{}, cmp.Or(processes, runtime.GOMAXPROCS(0))), idle: map[Compression][]*walCompressor{}}
}

// take gives a compressor of a setting. It needs a slot: so there are never more
// than slots.
func (w *WALCompressors) take(comp Compression) (*walCompressor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if idle := w.idle[comp]; len(idle) > 0 {
		last := idle[len(idle)-1]
		w.idle[comp] = idle[:len(idle)-1]
		return last, nil
	}
	return newWALCompressor(comp)
}

func (w *WALCompressors) give(comp Compression, enc *walCompressor) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.idle[comp] = append(w.idle[comp], enc)
}

// memory gives memory for the frames of one file by one setting.
func (w *WALCompressors) memory() *walMemory {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.memories); n > 0 {
		last := w.memories[n-1]
		w.memories = w.memories[:n-1]
		return last
	}
	return &walMemory{}
}

// giveMemory takes memory back that nothing reads any more.
func (w *WALCompressors) giveMemory(m *walMemory) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m.used = m.used[:0]
	w.memories = append(w.memories, m)
}

// walMemory is where the compressed frames of a file are.
type walMemory struct {
	mu   sync.Mutex
	used []byte
}

// walMemorySize is what is made at a time, in bytes: a segment of 16 MiB, as
// most compress, fits in one. Of what is not used the kernel makes nothing.
const walMemorySize = 4 << 20

// keep copies b to where it stays until the memory is given back.
func (m *walMemory) keep(b []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.used)+len(b) > cap(m.used) {
		// Frames before it keep what they are in.
		m.used = make([]byte, 0, max(walMemorySize, 2*cap(m.used), len(b)))
	}
	n := len(m.used)
	m.used = append(m.used, b...)
	return m.used[n:len(m.used):len(m.used)]
}

// walCompressor makes frames, one after the other.
type walCompressor struct {
	codec codec.ID
	enc   codec.Encoder
	buf   []byte
}

func newWALCompressor(comp Compression) (*walCompressor, error) {
	enc, err := codec.NewWALEncoder(comp.walCodec, comp.walLevel)
	return &walCompressor{codec: comp.walCodec, enc: enc}, err
}

// frame compresses plain; what it gives holds until the next call. What does not
// become smaller stays as it is.
func (w *walCompressor) frame(plain []byte) (walFrame, error) {
	f := walFrame{codec: codec.None, plain: len(plain), payload: plain}
	if w.codec == codec.None {
		return f, nil
	}
	compressed, err := w.enc.Encode(w.buf, plain)
	if err != nil {
		return f, err
	}
	w.buf = compressed
	if len(compressed) < len(plain) {
		f.codec, f.payload = w.codec, compressed
	}
	return f, nil
}
