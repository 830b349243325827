package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pgbak/pgbak/storage"
)

// maxDocument bounds what is read of a JSON document.
const maxDocument = 4 << 20

// document is the frame around every JSON object of the repository: a person
// can read it, and a flipped or torn byte, or the document of another place
// standing in this one, is noticed. Checksum is the SHA-256 of Body's bytes
// exactly as they stand in the object.
type document struct {
	Format   string          `json:"format"`
	Key      string          `json:"key"`
	Checksum string          `json:"sha256"`
	Body     json.RawMessage `json:"body"`
}

func encodeDocument(key, format string, body any) ([]byte, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", format, err)
	}
	sum := sha256.Sum256(raw)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(document{Format: format, Key: key, Checksum: hex.EncodeToString(sum[:]), Body: raw}); err != nil {
		return nil, fmt.Errorf("encode %s: %w", format, err)
	}
	return out.Bytes(), nil
}

// decodeDocument checks format, key and checksum, decodes the body and gives
// the checksum. Unknown fields are ignored: a change that an old reader must
// not ignore is a feature flag or a new format version.
func decodeDocument(key, format string, data []byte, body any) (checksum string, err error) {
	var d document
	if err := json.Unmarshal(data, &d); err != nil {
		return "", damaged(key, "not a JSON document", err)
	}
	if d.Format != format {
		return "", damagedf(key, "", "it says format %q, want %q", d.Format, format)
	}
	if d.Key != key {
		return "", damagedf(key, "", "it is the object %q", d.Key)
	}
	sum := sha256.Sum256(d.Body)
	if d.Checksum != hex.EncodeToString(sum[:]) {
		return "", damagedf(key, "", "checksum of its body does not match")
	}
	if err := json.Unmarshal(d.Body, body); err != nil {
		return "", damaged(key, "body", err)
	}
	return d.Checksum, nil
}

func putDocument(ctx context.Context, st storage.Store, key, format string, body any, o storage.PutOptions) error {
	data, err := encodeDocument(key, format, body)
	if err != nil {
		return err
	}
	return st.Put(ctx, key, storage.Bytes(data), o)
}

func getDocument(ctx context.Context, st storage.Store, key, format string, body any) error {
	_, err := getDocumentSum(ctx, st, key, format, body)
	return err
}

// getDocumentSum is getDocument and gives the body's checksum too.
func getDocumentSum(ctx context.Context, st storage.Store, key, format string, body any) (checksum string, err error) {
	data, err := readWhole(ctx, st, key, maxDocument)
	if err != nil {
		return "", err
	}
	return decodeDocument(key, format, data, body)
}

// readWhole reads an object of at most limit bytes; one that is larger is damaged.
func readWhole(ctx context.Context, st storage.Store, key string, limit int64) ([]byte, error) {
	data, err := storage.ReadAll(ctx, st, key, limit)
	if err != nil {
		if errors.Is(err, storage.ErrTooLarge) {
			return nil, damaged(key, "", err)
		}
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return data, nil
}
