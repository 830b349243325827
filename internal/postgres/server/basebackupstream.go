package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/pgbak/pgbak/internal/postgres"
)

// BaseBackupEnd is what the server says after the last archive.
type BaseBackupEnd struct {
	// LSN is where the backup is consistent, on Timeline.
	LSN      postgres.LSN
	Timeline postgres.Timeline
	// Damaged tells that the server met pages whose checksum is wrong: its
	// warnings name them.
	Damaged bool
}

// Receive hands the content of each archive to archive, in the order of
// Archives, then the backup_manifest to manifest. What a function leaves unread
// is passed over; the reader that it is given is valid until it returns. Memory
// is that of one message of the server.
func (b *BaseBackup) Receive(ctx context.Context, archive func(BackupArchive, io.Reader) error, manifest func(io.Reader) error) (BaseBackupEnd, error) {
	s := &backupStream{ctx: ctx, c: b.c}
	var err error
	if b.c.version < 150000 {
		err = s.separate(b.Archives, archive, manifest)
	} else {
		err = s.tagged(b.Archives, archive, manifest)
	}
	if err != nil {
		return BaseBackupEnd{}, err
	}
	return b.end(ctx)
}

// codeDataCorrupted is the server's answer, after everything was sent, when it
// met pages whose checksum is wrong.
const codeDataCorrupted = "XX001"

// end reads the result that comes last. With damaged pages the server sends an
// error instead of its last word.
func (b *BaseBackup) end(ctx context.Context) (BaseBackupEnd, error) {
	const what = "end the base backup"
	rows, err := b.c.result(ctx, what)
	if err != nil {
		return BaseBackupEnd{}, answered(what, err)
	}
	var e BaseBackupEnd
	if e.LSN, e.Timeline, err = readPoint(what, rows); err != nil {
		return e, err
	}
	err = b.c.ready(ctx)
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == codeDataCorrupted {
		e.Damaged = true
		err = b.c.ready(ctx)
	}
	return e, answered(what, err)
}

// backupStream reads the archives out of the messages of a session.
type backupStream struct {
	ctx context.Context // of Receive, for whose time the stream lives
	c   *ReplicationConn
	// unread is what is left of the message read last; it is valid until the next.
	unread []byte
	// next is the tagged message that ended a part, nil at the end of the copy.
	next []byte
	open bool // a part is being read
	more func() error
	err  error // for ever
}

const receiving = "receive the base backup"

// Read reads the content of the part that is open.
func (s *backupStream) Read(p []byte) (int, error) {
	for len(s.unread) == 0 && s.open && s.err == nil {
		s.err = s.more()
	}
	if s.err != nil {
		return 0, s.err
	}
	if len(s.unread) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.unread)
	s.unread = s.unread[n:]
	return n, nil
}

// part hands one part to who wants it, and passes over what is left of it.
func (s *backupStream) part(take func(io.Reader) error) error {
	s.open, s.unread = true, nil
	if err := take(struct{ io.Reader }{s}); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, struct{ io.Reader }{s})
	return err
}

// copyData gives the content of the next message of a copy; ok is false at its end.
func (s *backupStream) copyData() (data []byte, ok bool, err error) {
	m, err := s.c.receive(s.ctx, receiving)
	if err != nil {
		return nil, false, answered(receiving, err)
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		return m.Data, true, nil
	case *pgproto3.CopyDone:
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("%s: the server sent %T", receiving, m)
}

// answered explains an error that is the server's answer; others are explained already.
func answered(what string, err error) error {
	if answer, ok := err.(*pgconn.PgError); ok {
		return replicationError(what, answer)
	}
	return err
}

// beginCopy reads the message that begins a copy.
func (s *backupStream) beginCopy() error {
	m, err := s.c.receive(s.ctx, receiving)
	if err != nil {
		return answered(receiving, err)
	}
	if _, ok := m.(*pgproto3.CopyOutResponse); !ok {
		return fmt.Errorf("%s: the server sent %T where a copy was to begin", receiving, m)
	}
	return nil
}

// separate reads the form of 13 and 14: a copy for each archive and one for the manifest.
func (s *backupStream) separate(archives []BackupArchive, archive func(BackupArchive, io.Reader) error, manifest func(io.Reader) error) error {
	s.more = func() (err error) {
		s.unread, s.open, err = s.copyData()
		return err
	}
	for _, a := range archives {
		if err := s.beginCopy(); err != nil {
			return err
		}
		if err := s.part(func(r io.Reader) error { return archive(a, r) }); err != nil {
			return err
		}
	}
	if err := s.beginCopy(); err != nil {
		return err
	}
	return s.part(manifest)
}

// The first byte of a message from 15 on says what it is.
const (
	tagArchive  = 'n' // an archive begins: its name and location, each ended by a zero
	tagManifest = 'm' // the manifest begins
	tagData     = 'd' // content of what has begun
	tagProgress = 'p' // a number of 8 bytes: how much the server has done
)

// tagged reads the form of 15 and later: one copy of messages with a tag.
func (s *backupStream) tagged(archives []BackupArchive, archive func(BackupArchive, io.Reader) error, manifest func(io.Reader) error) error {
	if err := s.beginCopy(); err != nil {
		return err
	}
	s.more = s.moreTagged
	s.open = true
	for _, a := range archives {
		if err := s.begins(tagArchive); err != nil {
			return err
		}
		if err := checkArchive(a, s.next); err != nil {
			return err
		}
		if err := s.part(func(r io.Reader) error { return archive(a, r) }); err != nil {
			return err
		}
	}
	if err := s.begins(tagManifest); err != nil {
		return err
	}
	if err := s.part(manifest); err != nil {
		return err
	}
	if s.next != nil {
		return fmt.Errorf("%s: a message %q follows the manifest", receiving, s.next[0])
	}
	return nil
}

// begins sees to it that the next part begins with a tag.
func (s *backupStream) begins(tag byte) error {
	if s.next == nil && s.open { // the first one
		if err := s.moreTagged(); err != nil {
			return err
		}
	}
	if len(s.unread) > 0 || s.next == nil || s.next[0] != tag {
		return fmt.Errorf("%s: no message %q where one was expected", receiving, tag)
	}
	return nil
}

// moreTagged reads messages up to the next content, or to the end of the part.
func (s *backupStream) moreTagged() error {
	for {
		data, ok, err := s.copyData()
		if err != nil {
			return err
		}
		if !ok {
			s.next, s.open = nil, false
			return nil
		}
		if len(data) == 0 {
			return fmt.Errorf("%s: an empty message", receiving)
		}
		switch data[0] {
		case tagData:
			if s.unread = data[1:]; len(s.unread) > 0 {
				return nil
			}
		case tagProgress:
			if len(data) != 9 || int64(binary.BigEndian.Uint64(data[1:])) < 0 {
				return fmt.Errorf("%s: a progress message of %d bytes", receiving, len(data))
			}
		case tagArchive, tagManifest:
			s.next, s.open = bytes.Clone(data), false
			return nil
		default:
			return fmt.Errorf("%s: a message of unknown kind %q", receiving, data[0])
		}
	}
}

// checkArchive compares the message that begins an archive with what was announced.
func checkArchive(a BackupArchive, message []byte) error {
	name, rest, ok1 := strings.Cut(string(message[1:]), "\x00")
	location, rest, ok2 := strings.Cut(rest, "\x00")
	want := "base.tar"
	if a.OID != 0 {
		want = strconv.FormatUint(uint64(a.OID), 10) + ".tar"
	}
	if !ok1 || !ok2 || rest != "" || name != want || location != a.Location {
		return fmt.Errorf("%s: archive %q of %q begins, %q of %q was announced", receiving, name, location, want, a.Location)
	}
	return nil
}

func parseUint64(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }
